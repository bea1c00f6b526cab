"""The agreement between templates and the rest: what a template is asked and what it answers.

A template is an object with a `name`, a `version` and `match(problem) -> Plan | Miss`. Matching
only looks; the plan then lists candidate knobs, best guess first, and emits a TIR function for any
of them. Templates stand in an ordered list in `templates/__init__.py`; the first plan wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from tvm.tirx import PrimFunc

from optc.ir.graph import Graph
from optc.ir.targets.target import Target
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a template does not take a task; shown to people as a remark."""

    reason: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A task to schedule: its body, which of the body's inputs are weights, and the machine."""

    body: Graph
    constants: frozenset[int]
    target: Target


class Pack(Protocol):
    """How a constant input is laid out in memory at compile time.

    A frozen dataclass of plain fields: its repr is the specification, and equal packs of equal
    weights are stored once. `__call__` is pure; arrays are in the dtype's storage (bf16: uint16).
    """

    def type(self, natural: TensorType) -> TensorType:
        """Type of the packed array for an input of type `natural`."""
        ...

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The packed, C-contiguous array."""
        ...


class Knobs(Protocol):
    """A template's free choices: a frozen dataclass of ints and enums; its repr goes to records."""

    def __repr__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class NoKnobs:
    """Nothing to choose."""


@dataclass(frozen=True)
class Emitted:
    """A function ready for `codegen`, and the packs its buffers expect.

    `function` takes the body's inputs in order (with the packed type where `packs` has the input's
    index), then the outputs. Scratch memory is an `AllocBuffer` inside; `kernel.py` moves what does
    not fit on a stack into the workspace parameter. `template` is said by plans whose knobs choose
    between templates, `flops` by those that compute less than the task's definition does.
    """

    function: PrimFunc
    packs: Mapping[int, Pack] = field(default_factory=dict)
    template: str = ""
    flops: int | None = None


@runtime_checkable
class Plan(Protocol):
    """A template's yes."""

    @property
    def template(self) -> str:
        """`name/version` of the template: part of a record's key."""
        ...

    def candidates(self) -> Sequence[Knobs]:
        """Settings worth trying, ordered by the analytic model; never empty, deterministic."""
        ...

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """The function named `symbol`; raises TypeError for knobs of another template."""
        ...


class Template(Protocol):
    """One expert schedule. `version` grows when its code changes meaning or speed."""

    @property
    def name(self) -> str:
        """What remarks and records call it."""
        ...

    @property
    def version(self) -> int:
        """See above."""
        ...

    def match(self, problem: Problem) -> Plan | Miss:
        """A plan, or the reason why not. Must not raise for any well-typed body."""
        ...
