"""A task as launches: its stages in order, each written by the scheme that suits it.

A fold whose only reader goes through its results one by one is computed inside that reader's
launch: bias, activation and residual, and the moves behind a product, cost no pass over memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr
from tvm.te.tensor import Operation
from tvm.tirx import Buffer

from optc.backends.tvm.cuda.grid import DeviceKernel, Grid, ceil_div, point_of
from optc.backends.tvm.lower.element import ROUNDING
from optc.backends.tvm.templates.elements import (
    Elements,
    Key,
    Read,
    key_of,
    parameter,
    tensors_of,
)
from optc.backends.tvm.templates.folds import Fold, fold_of
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.templates.nest import unravel
from optc.backends.tvm.templates.stages import stages_of
from optc.ir.graph import Graph, Value

Point = Sequence[Expr]
Write = Callable[[int, Point, Expr], None]

_THREADS = 256


class Task:
    """The launches of a task under construction; `sources` grows with every stage."""

    def __init__(self, body: Graph, symbol: str) -> None:
        tensors = tensors_of(body)
        self.symbol = symbol
        self.inputs = [parameter(v.type, f"in{i}") for i, v in enumerate(body.inputs)]
        self.outputs = [parameter(v.type, f"out{i}") for i, v in enumerate(body.outputs)]
        self.scratch: list[Buffer] = []
        self.results = [tensors[value] for value in body.outputs]
        self.stages = stages_of(self.results)
        self.kernels: list[DeviceKernel] = []
        self.buffers: dict[Key, Buffer] = {}
        self.sources: dict[Key, Read] = {}
        self.rounded = _rounded(tensors)
        self._goals: dict[Key, Buffer] = {}
        for value, buffer in zip(body.inputs, self.inputs, strict=True):
            self.place(tensors[value], buffer)
        for tensor, buffer in zip(self.results, self.outputs, strict=True):
            if not isinstance(tensor.op, te.PlaceholderOp):
                self._goals.setdefault(key_of(tensor), buffer)

    def place(self, tensor: te.Tensor, buffer: Buffer) -> None:
        """From here on the tensor is read from a buffer of its shape."""
        self.buffers[key_of(tensor)] = buffer
        self.sources[key_of(tensor)] = lambda index: tirx.BufferLoad(buffer, list(index))

    def goal_of(self, tensor: te.Tensor) -> Buffer:
        """The output a tensor is stored in, or memory between launches."""
        if key_of(tensor) not in self._goals:
            shape = [int(extent) for extent in tensor.shape]
            self._goals[key_of(tensor)] = self.memory(tensor.op.name, shape, tensor.dtype)
        return self._goals[key_of(tensor)]

    def memory(self, name: str, shape: Sequence[int], dtype: str) -> Buffer:
        """Device memory that lives from launch to launch."""
        buffer = tirx.decl_buffer(tuple(shape), dtype, f"{name}_{len(self.scratch)}")
        self.scratch.append(buffer)
        return buffer

    def copy_results(self) -> None:
        """Outputs that are inputs, or other outputs, are copies of them."""
        for tensor, goal in zip(self.results, self.outputs, strict=True):
            source = self.buffers[key_of(tensor)]
            if source is goal or 0 in list(map(int, goal.shape)):
                continue
            total = math.prod(int(extent) for extent in goal.shape)
            grid = Grid(ceil_div(total, _THREADS), _THREADS)
            place = grid.code.bind(point_of(grid), "place")
            with grid.code.when(place < total):
                index = unravel(grid.code, place, [int(extent) for extent in goal.shape])
                grid.code.store(goal, index, tirx.BufferLoad(source, index))
            self.add(grid)

    def add(self, grid: Grid) -> None:
        """Close a launch."""
        symbol = f"{self.symbol}_{len(self.kernels)}"
        self.kernels.append(grid.kernel(symbol, self.parameters))

    @property
    def parameters(self) -> list[Buffer]:
        """All buffers a launch may take, in the order of the call's operands."""
        return [*self.inputs, *self.outputs, *self.scratch]

    def steps(self) -> list[Step]:
        """One step for each launch: stages, but for folds that their reader computes."""
        hosts = self._hosts()
        return [
            Step(self, op, hosts.get(op))
            for op in self.stages
            if op not in hosts.values() and not isinstance(op, te.PlaceholderOp)
        ]

    def _hosts(self) -> dict[Operation, te.ComputeOp]:
        """The fold that each element-wise stage computes on the way, where there is one."""
        readers: dict[Operation, list[Operation]] = {op: [] for op in self.stages}
        for op in self.stages:
            for source in self.read_by(op):
                readers[source].append(op)
        wanted = {tensor.op for tensor in self.results}
        hosts: dict[Operation, te.ComputeOp] = {}
        for op, users in readers.items():
            if not is_fold(op) or op in wanted or op.num_outputs != 1 or len(users) != 1:
                continue
            (user,) = users
            if user in hosts or not is_elementwise(user) or points(user) != points(op):
                continue
            if index_of(user, op.output(0), self.stages) is not None:
                hosts[user] = op
        return hosts

    def read_by(self, op: Operation) -> list[Operation]:
        """The stages that a stage reads, directly or through what is inlined."""
        found: dict[Operation, None] = {}
        pending = list(op.input_tensors)
        seen: set[Operation] = set()
        while pending:
            source = pending.pop().op
            if source in seen:
                continue
            seen.add(source)
            if source in self.stages:
                found[source] = None
            else:
                pending.extend(source.input_tensors)  # `+=` would make it a TVM array
        return list(found)


def _rounded(tensors: Mapping[Value, te.Tensor]) -> dict[Key, str]:
    """Wide tensors that only stand for halves of the graph: their readers may round them."""
    exact = {key_of(tensor) for tensor in tensors.values()}
    found: dict[Key, str] = {}
    for tensor in tensors.values():
        if isinstance(tensor.op, te.ComputeOp) and tensor.op.tag == ROUNDING:
            (source,) = tensor.op.input_tensors
            if key_of(source) not in exact:
                found[key_of(source)] = str(tensor.dtype)
    return found


@dataclass(frozen=True, eq=False)
class Step:
    """Elements of `stage`, each of which may take one result of `fold` (or is one itself)."""

    task: Task
    stage: Operation
    hosted: te.ComputeOp | None

    @property
    def fold(self) -> te.ComputeOp | None:
        """The reduction that the step computes."""
        return self.stage if is_fold(self.stage) else self.hosted

    @cached_property
    def extents(self) -> list[int]:
        """Of the elements that are written."""
        return [int(axis.dom.extent) for axis in self.stage.axis]

    @cached_property
    def reduced(self) -> list[int]:
        """Of the axes that are folded."""
        return [int(axis.dom.extent) for axis in self.fold.reduce_axis] if self.fold else []

    @cached_property
    def reducer(self) -> Fold:
        """How values are joined."""
        return fold_of(self.fold)

    def fold_index(self, point: Point) -> list[Expr]:
        """Index of the fold's result that the element at `point` takes."""
        if self.hosted is None:
            return list(point)
        places = {axis.var: at for axis, at in zip(self.stage.axis, point, strict=True)}
        return [Elements({}).expression(index, places) for index in self._hosted_index]

    @cached_property
    def _hosted_index(self) -> list[Expr]:
        """Where the stage reads the fold that it hosts, over its own axes."""
        assert self.hosted is not None
        found = index_of(self.stage, self.hosted.output(0), self.task.stages)
        assert found is not None
        return found

    def terms(self, code: Code | None, point: Point, inner: Point) -> list[Expr]:
        """What is folded at `inner` for the element at `point`."""
        assert self.fold is not None
        return [self.source(code, value, point, inner) for value in self.fold.body[0].source]

    def source(self, code: Code | None, value: Expr, point: Point, inner: Point) -> Expr:
        """A part of the fold's source there."""
        fold = self.fold
        assert fold is not None
        where = [*self.fold_index(point), *inner]
        places = {a.var: at for a, at in zip((*fold.axis, *fold.reduce_axis), where, strict=True)}
        return Elements(self.task.sources, code).expression(value, places)

    def finish(
        self, code: Code, point: Point, folded: Sequence[Expr] = (), write: Write | None = None
    ) -> None:
        """Write the elements at `point`, given the fold's results there, where they belong.

        `write(number of the result, point, value)` stores them elsewhere.
        """
        task, stage = self.task, self.stage
        results = [stage.output(n) for n in range(stage.num_outputs)]
        if self.fold is stage:
            values = list(folded)
        else:
            sources = dict(task.sources)
            if self.hosted is not None:
                (value,) = folded
                sources[key_of(self.hosted.output(0))] = lambda _: value
            elements = Elements(sources, code)
            places = {axis.var: at for axis, at in zip(stage.axis, point, strict=True)}
            values = [elements.expression(body, places) for body in stage.body]
        for number, (tensor, value) in enumerate(zip(results, values, strict=True)):
            if write is None:
                code.store(task.goal_of(tensor), point, value)
            else:
                write(number, point, value)

    def done(self) -> None:
        """Later steps read what this one wrote."""
        for n in range(self.stage.num_outputs):
            tensor = self.stage.output(n)
            self.task.place(tensor, self.task.goal_of(tensor))


def is_fold(op: Operation) -> bool:
    """Whether the stage is a reduction."""
    return isinstance(op, te.ComputeOp) and bool(op.reduce_axis)


def is_elementwise(op: Operation) -> bool:
    """Whether the stage's elements are expressions."""
    return isinstance(op, te.ComputeOp) and not op.reduce_axis


def points(op: te.ComputeOp) -> int:
    """Elements of a stage."""
    return math.prod(int(axis.dom.extent) for axis in op.axis)


def index_of(
    reader: te.ComputeOp, source: te.Tensor, stages: Sequence[Operation]
) -> list[Expr] | None:
    """The one index, over the reader's axes, at which it reads `source`; None if there are more."""
    found: list[list[Expr]] = []

    def note(index: Sequence[Expr]) -> Expr:
        found.append(list(index))
        return tirx.const(0, source.dtype)

    def other(tensor: te.Tensor) -> Callable[[Sequence[Expr]], Expr]:
        buffer = tirx.decl_buffer(tensor.shape, tensor.dtype, "other")
        return lambda index: tirx.BufferLoad(buffer, list(index))

    sources: dict[Key, Read] = {}
    for op in (*stages, *_placeholders(reader)):
        for n in range(op.num_outputs):
            sources[key_of(op.output(n))] = other(op.output(n))
    sources[key_of(source)] = note
    places = {axis.var: axis.var for axis in reader.axis}
    for body in reader.body:
        Elements(sources).expression(body, places)
    if not found or any(not _equal(found[0], index) for index in found):
        return None
    return found[0]


def _equal(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    return all(map(tvm_ffi.structural_equal, a, b))


def _placeholders(op: Operation) -> list[Operation]:
    found: dict[Operation, None] = {}
    pending, seen = [op], set()
    while pending:
        item = pending.pop()
        if item in seen:
            continue
        seen.add(item)
        if isinstance(item, te.PlaceholderOp):
            found[item] = None
        pending.extend(tensor.op for tensor in item.input_tensors)
    return list(found)
