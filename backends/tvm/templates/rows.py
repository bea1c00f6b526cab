"""Softmax, norms and their kin: everything that a row needs is done while the row is in cache.

A task whose folds run over trailing axes, and whose stages meet only within a row, becomes one
loop over rows. What several stages of a row share is kept in a scratch row on the stack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr
from tvm.te.tensor import Operation
from tvm.tirx import Buffer

from optc.backends.tvm.templates.accesses import axes_of, walk
from optc.backends.tvm.templates.elements import Elements, key_of
from optc.backends.tvm.templates.emission import StageEmission
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import unravel
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, NoKnobs, Plan, Problem

_LONGEST = 1 << 16  # elements of a row above which idle threads are missed
_SHORTEST = 8  # elements of a row below which lanes along it stay empty
_CYCLES_PER_ELEMENT = 0.5  # of all stages of a row together, roughly


class NotInRow(RuntimeError):
    """A stage reads other rows, or does not go through its own from neighbour to neighbour."""


# Raised below nested callbacks of TVM, which hand on only errors that they know by name.
tvm_ffi.register_error("NotInRow", NotInRow)


@dataclass(frozen=True)
class Rows:
    """Template of row-wise tasks."""

    name: str = "rows"
    version: int = 1

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes tasks with a fold over trailing axes, all of whose stages have the same rows."""
        stages = StageEmission(problem).stages
        reason = reason_against(stages)
        if reason:
            return Miss(reason)
        rank = common_axes(stages)
        extents = tuple(int(axis.dom.extent) for axis in stages[0].axis[:rank])
        elements = max(_elements(op) for op in stages)
        plan = RowsPlan(problem, extents, elements // max(1, math.prod(extents)))
        if plan.length < _SHORTEST:
            return Miss(f"rows of {plan.length} elements are short")
        if plan.rows < problem.target.cores and plan.length > _LONGEST:
            return Miss(f"{plan.rows} rows are too few for the threads")
        try:
            plan.emit("probe", NoKnobs())
        except RuntimeError as problem_found:  # what TVM's callbacks make of a NotInRow
            return Miss(str(problem_found))
        return plan


@dataclass(frozen=True)
class RowsPlan:
    """Rows by leading axes of these extents, each of `length` elements."""

    problem: Problem
    extents: tuple[int, ...]
    length: int
    template: str = "rows/1"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self.extents)

    def candidates(self) -> Sequence[Knobs]:
        """There is one way."""
        return [NoKnobs()]

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One loop over rows."""
        emission = StageEmission(self.problem)
        code = emission.code
        alone = replace(emission.machine, cores=1)
        cycles = self.rows * self.length * _CYCLES_PER_ELEMENT * len(emission.stages)
        with code.shared("row", self.rows, cycles) as row:
            prefix = unravel(code, row, self.extents)
            for op in emission.stages:
                _check_contiguous(emission, op, prefix)
                results = [op.output(n) for n in range(op.num_outputs)]
                targets = [emission.target_of(tensor, len(prefix)) for tensor in results]
                emission.compute(op, targets, prefix, alone)
                for tensor, target in zip(results, targets, strict=True):
                    _place(emission, tensor, target, prefix)
        return Emitted(emission.finish(symbol))


def reason_against(stages: Sequence[Operation]) -> str:
    """Why stages cannot run row by row; empty when they may."""
    if any(not isinstance(op, te.ComputeOp) for op in stages):
        return "a stage is hand-written loops, or an input"
    if not any(op.reduce_axis for op in stages):
        return "nothing is folded"
    if not common_axes(stages):
        return "stages have no leading axes in common"
    if any(op.reduce_axis and _elements(op) > _source_elements(op) for op in stages):
        return "elements are read by several rows"
    return ""


def common_axes(stages: Sequence[Operation]) -> int:
    """How many leading axes all stages share, leaving folded axes and at least one other out."""
    widest = max(stages, key=_elements)
    extents = [int(axis.dom.extent) for axis in widest.axis]
    rank = len(extents) if widest.reduce_axis else len(extents) - 1
    for op in stages:
        own = [int(axis.dom.extent) for axis in op.axis]
        while rank and own[:rank] != extents[:rank]:
            rank -= 1
    return rank


def _elements(op: Operation) -> int:
    return math.prod(int(axis.dom.extent) for axis in (*op.axis, *op.reduce_axis))


def _source_elements(op: te.ComputeOp) -> int:
    sizes = [math.prod(int(extent) for extent in t.shape) for t in op.input_tensors]
    return max(sizes, default=0)


def _check_contiguous(emission: StageEmission, op: te.ComputeOp, prefix: Sequence[Expr]) -> None:
    """Raise NotInRow unless the last axis of a stage is the last axis of all that it reads."""
    own = [*op.axis[len(prefix) :], *op.reduce_axis]
    own = [axis for axis in own if int(axis.dom.extent) > 1]
    if not own:
        return
    axes = axes_of([int(axis.dom.extent) for axis in own])
    places = dict(zip((axis.var for axis in op.axis), prefix, strict=False))
    places |= {axis.var: as_index(0) for axis in (*op.axis[len(prefix) :], *op.reduce_axis)}
    places |= {axis.var: mine.var for axis, mine in zip(own, axes, strict=True)}

    def point(code: Code) -> list[Expr]:
        elements = Elements(emission.sources, code)
        bodies = op.body[0].source if op.reduce_axis else op.body
        return [elements.expression(body, places) for body in bodies]

    if any(access.strides[-1] not in (0, 1) for access in walk(axes, point).accesses):
        raise NotInRow(f"{op.name} does not go through its row in order")


def _place(
    emission: StageEmission, tensor: te.Tensor, target: Buffer, prefix: Sequence[Expr]
) -> None:
    """Later stages of the row read the tensor where it was stored."""
    rank = len(prefix)
    lead = [] if len(target.shape) < len(tensor.shape) else list(prefix)

    def read(index: Sequence[Expr]) -> Expr:
        if not all(map(tvm_ffi.structural_equal, index[:rank], prefix)):
            raise NotInRow(f"a stage reads other rows of {tensor.op.name}")
        return tirx.BufferLoad(target, [*lead, *index[rank:]])

    emission.buffers[key_of(tensor)] = target
    emission.sources[key_of(tensor)] = read
