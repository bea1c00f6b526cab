"""A built kernel, whatever built it: the hand-over between kernel builders and the assembler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from optc.backends.program import Launch
from optc.ir.graph import Graph
from optc.ir.structural import graph_digest
from optc.ir.types import TensorType


class PackLike(Protocol):
    """How a constant input is laid out at compile time; its repr is the specification."""

    def type(self, natural: TensorType) -> TensorType:
        """Type of the packed array for an input of type `natural`."""
        ...

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        """The packed, C-contiguous array; pure."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel that is wanted: a task's body, and which of its inputs are constants."""

    body: Graph
    constants: frozenset[int]

    @property
    def structure(self) -> str:
        """What jobs have in common that one kernel serves."""
        return f"{graph_digest(self.body)} {sorted(self.constants)}"


class Kernel(Protocol):
    """A compiled task: a call with inputs, outputs and workspaces as operands, in this order.

    On a CPU it is `int32_t symbol(void *, ...)` inside `object`; on a GPU it is `launches` of
    functions in `source`.
    """

    @property
    def symbol(self) -> str:
        """The C name."""
        ...

    @property
    def object(self) -> bytes:
        """The relocatable object file; empty on a GPU."""
        ...

    @property
    def source(self) -> str:
        """CUDA C of the launches' functions; empty on a CPU."""
        ...

    @property
    def launches(self) -> tuple[Launch, ...]:
        """What the call launches on a GPU, in order."""
        ...

    @property
    def packs(self) -> Mapping[int, PackLike]:
        """Layouts of constant inputs, by input."""
        ...

    @property
    def workspaces(self) -> tuple[int, ...]:
        """Bytes of each piece of scratch memory."""
        ...

    @property
    def template(self) -> str:
        """`name/version` of what wrote it."""
        ...

    @property
    def flops(self) -> int | None:
        """Operations it does, where that is not what the task's definition takes."""
        ...


# Kernels for jobs, in their order. Equal symbols mean the same kernel.
BuildKernels = Callable[[Sequence[Job]], Sequence[Kernel]]
