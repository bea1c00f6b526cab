"""Task: a fused subgraph that becomes one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from optc.ir.ops.base import Op, Types, require
from optc.ir.types import TensorType

if TYPE_CHECKING:
    from optc.ir.graph import Graph


@dataclass(frozen=True, slots=True)
class Task(Op):
    """Runs `body` on its inputs. Which inputs are constants is seen in the graph around it.

    Tasks compare by identity of the body; `ir.structural` compares by what they compute.
    """

    arity: ClassVar[tuple[int, int]] = (0, 1 << 16)
    body: Graph

    def _infer(self, *inputs: TensorType) -> Types:
        wanted = tuple(value.type for value in self.body.inputs)
        require(inputs == wanted, f"task {self.body.name} takes {wanted}, not {inputs}")
        return tuple(value.type for value in self.body.outputs)
