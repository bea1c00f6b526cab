"""A task around its anchor: parameters, what feeds the anchor, and what becomes of its elements.

A template that computes an anchor asks `fused(problem, anchor)` when it matches, and when it emits:
`read` for elements of the anchor's inputs (with the prologue inlined), `store` for each element it
has computed (which runs the epilogue and writes the task's outputs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.accesses import axes_of, walk
from optc.backends.tvm.templates.elements import (
    Elements,
    Key,
    Read,
    key_of,
    parameter,
    tensors_of,
    unrounded,
)
from optc.backends.tvm.templates.loops import Code, Index, as_index
from optc.backends.tvm.templates.places import Coordinates, followers, places, plain
from optc.backends.tvm.templates.plan import Emitted, Miss, Pack, Problem
from optc.ir.graph import Node, Value
from optc.ir.targets.target import Target

Steps: TypeAlias = tuple[int | None, int | None]


@dataclass(frozen=True, eq=False)
class Fused:
    """The task's tensors with the anchor cut out."""

    problem: Problem
    anchor: Node
    tensors: Mapping[Value, te.Tensor]

    @cached_property
    def epilogue_size(self) -> int:
        """Operations per element behind the anchor: what decides between inlining and a loop."""
        size = 0

        def count(_: tirx.Add) -> None:
            nonlocal size
            size += 1

        kinds = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Select, tirx.Max, tirx.Min)
        for node in followers(self.problem.body, self.anchor.output):
            for value in node.outputs:
                for tensor in _stages(
                    self.tensors[value], {key_of(self.tensors[v]) for v in node.inputs}
                ):
                    for body in tensor.op.body:
                        tvm_ffi.structural_walk(body, (kinds, count))
        return size

    def emitter(self, packs: Mapping[int, Pack] | None = None) -> FusedEmitter:
        """Parameters for one emission; constant inputs in `packs` have their packed type."""
        return FusedEmitter(self, packs or {})


@dataclass(frozen=True)
class AnchorPlan:
    """What plans around one node have in common: the task, and the template's `name/version`."""

    task: Fused
    template: str

    @property
    def node(self) -> Node:
        """The anchor."""
        return self.task.anchor

    @property
    def target(self) -> Target:
        """The machine."""
        return self.task.problem.target


def fused(problem: Problem, anchor: Node) -> Fused | Miss:
    """The task around `anchor`, or why its epilogue cannot run element by element."""
    body, result = problem.body, anchor.output
    try:
        tensors = tensors_of(body, [result])
    except NotImplementedError as missing:
        return Miss(str(missing))
    index = [as_index(0)] * len(result.shape)
    after = places(body, result, index, tensors)
    if isinstance(after, Miss):
        return after
    if any(value not in after for value in body.outputs):
        return Miss(f"an output does not depend on {anchor.op.name}")
    inner = {key_of(tensor) for tensor in tensors.values()}
    for value in (*anchor.inputs, *(v for v in tensors if v not in after)):
        if any(
            _folds(stage) for stage in _stages(tensors[value], inner - {key_of(tensors[value])})
        ):
            return Miss(f"{value.hint or 'a value'} beside {anchor.op.name} folds an axis")
    return Fused(problem, anchor, tensors)


class FusedEmitter:
    """One emission: buffers for the parameters, and element access through them."""

    def __init__(self, task: Fused, packs: Mapping[int, Pack]) -> None:
        body = task.problem.body
        self.task = task
        self.packs = packs
        types = [value.type for value in body.inputs]
        for place, pack in packs.items():
            types[place] = pack.type(types[place])
        self.inputs = [parameter(type, f"in{i}") for i, type in enumerate(types)]
        self.outputs = [parameter(v.type, f"out{i}") for i, v in enumerate(body.outputs)]
        self._sources: dict[Key, Read] = {
            key_of(task.tensors[value]): _loader(buffer)
            for i, (value, buffer) in enumerate(zip(body.inputs, self.inputs, strict=True))
            if i not in packs
        }

    def packed(self, value: Value) -> Buffer:
        """The parameter behind a body input that a pack lays out."""
        return self.inputs[self.task.problem.body.inputs.index(value)]

    def read(self, code: Code | None, value: Value, index: Index) -> Expr:
        """An element of a value before or beside the anchor; with `code`, computed there once."""
        return Elements(self._sources, code).at(self.task.tensors[value], index)

    def store(self, code: Code, index: Coordinates, value: Expr) -> None:
        """The anchor's element at `index` is `value`: finish and write it."""
        task, result = self.task, self.task.anchor.output
        body = task.problem.body
        after = places(body, result, index, task.tensors)
        assert not isinstance(after, Miss), after.reason
        anchor = unrounded(task.tensors[result])
        if value.ty.dtype != anchor.dtype:
            value = tirx.Cast(anchor.dtype, value)
        value = code.bind(value, "sum")
        sources = {**self._sources, key_of(anchor): lambda _: value}
        elements = Elements(sources, code)
        for output, buffer in zip(body.outputs, self.outputs, strict=True):
            place = plain(after[output])
            code.store(buffer, place, elements.at(task.tensors[output], place))

    def strides(
        self, place: Callable[[Expr, Expr], Coordinates], extents: tuple[int, int]
    ) -> Steps:
        """Steps in memory of the first output from one row, and one column, to the next.

        `place(row, column)` is the anchor's index; None where steps differ.
        """
        body, result = self.task.problem.body, self.task.anchor.output
        axes = axes_of(extents)

        def point(_: Code) -> Expr:
            after = places(body, result, place(axes[0].var, axes[1].var), self.task.tensors)
            assert not isinstance(after, Miss), after.reason
            return tirx.BufferLoad(self.outputs[0], plain(after[body.outputs[0]]))

        (access,) = walk(axes, point).accesses
        return access.strides[0], access.strides[1]

    def finish(self, code: Code, symbol: str) -> Emitted:
        """The function over all parameters."""
        function = code.function(symbol, [*self.inputs, *self.outputs])
        return Emitted(function, self.packs)


def _loader(buffer: Buffer) -> Read:
    return lambda index: tirx.BufferLoad(buffer, list(index))


def _folds(tensor: te.Tensor) -> bool:
    return not isinstance(tensor.op, te.PlaceholderOp) and (
        not isinstance(tensor.op, te.ComputeOp) or bool(tensor.op.reduce_axis)
    )


def _stages(tensor: te.Tensor, stop: set[Key]) -> Sequence[te.Tensor]:
    """The computes behind a tensor down to `stop`, the tensor itself first."""
    found: dict[Key, te.Tensor] = {}
    pending = [tensor]
    while pending:
        item = pending.pop()
        key = key_of(item)
        if key in stop or key in found or isinstance(item.op, te.PlaceholderOp):
            continue
        found[key] = item
        pending.extend(item.op.input_tensors)  # `+=` would make it a TVM array
    return tuple(found.values())
