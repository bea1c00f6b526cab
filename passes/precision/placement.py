"""Where a graph goes from floats to integers and back: the analysis behind `quantize`.

A quantized layer wants its input as integers. What only moves elements keeps their parameters, so
the demand travels up through it to a *point*: the value that is quantized. Beyond that, values
between quantized layers stay small in memory: a value all of whose readers end in integers again,
through arithmetic that kernels do on the way, is a point too where one kernel ends and another
begins. Readers that go on in floats (a norm, a softmax, an output) read the float.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import (
    ELEMENTWISE,
    AdaptiveAvgPool,
    Attention,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Expand,
    Flip,
    GroupNorm,
    Interpolation,
    Linear,
    MatMul,
    MaxPool,
    Op,
    Pad,
    PadMode,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    Reshape,
    Resize,
    Slice,
    Transpose,
)

_MOVES = (Concat, Expand, Flip, MaxPool, ReduceMax, ReduceMin, Reshape, Slice, Transpose)
_JOINED = (*ELEMENTWISE, BatchNorm)  # a kernel does these behind a product or a mean
_ARITHMETIC = (*_JOINED, AdaptiveAvgPool, AvgPool, GroupNorm, ReduceMean, Resize)
_ANCHORS = (
    AdaptiveAvgPool, Attention, AvgPool, Conv, ConvTranspose, GroupNorm, Linear, MatMul, ReduceMean,
)  # fmt: skip


def moves(op: Op) -> bool:
    """Whether each element of the result is one of the inputs', or 0.0: integers pass as well."""
    match op:
        case Pad(mode=mode, value=value):
            return mode is not PadMode.CONSTANT or value == 0
        case Resize(mode=mode):
            return mode is Interpolation.NEAREST
    return isinstance(op, _MOVES)


class Placement:
    """The points of a graph for some quantized layers, and who reads their integers."""

    def __init__(self, graph: Graph, layers: Collection[Node]) -> None:
        self.graph, self.layers = graph, set(layers)
        self._order = {node: place for place, node in enumerate(graph.nodes)}
        self._demanded: set[Value] = set()  # a quantized layer reads it, perhaps behind movements
        self._settled: set[Value] = set()  # every reader ends in integers again
        for value in reversed(list(graph.values())):
            self._look_down(value)
        self.points: tuple[Value, ...] = tuple(self._look_up())

    def reads_integers(self, node: Node, value: Value) -> bool:
        """Whether a node that is no movement reads the integers of a value that has them."""
        if node in self.layers:
            return node.inputs[0] is value
        return isinstance(node.op, _ARITHMETIC) and node.outputs[0] in self._settled

    def is_settled(self, value: Value) -> bool:
        """Whether all that read it end in integers again, so that nobody needs the float."""
        return value in self._settled

    def source(self, value: Value) -> Value:
        """The point that a value comes from; the first, where there are several."""
        return next(self._sources(value))

    def classes(self) -> list[list[Value]]:
        """Points that share parameters, as a concat joins them; in order of definition."""
        leader = {value: value for value in self.points}

        def find(value: Value) -> Value:
            while leader[value] is not value:
                value = leader[value]
            return value

        for node in self.graph.nodes:
            if isinstance(node.op, Concat) and self._wanted(node.output):
                sources = [source for value in node.inputs for source in self._sources(value)]
                if all(source in leader for source in sources):
                    for source in sources:
                        leader[find(source)] = find(sources[0])
        groups: dict[Value, list[Value]] = {}
        for value in self.points:
            groups.setdefault(find(value), []).append(value)
        return list(groups.values())

    def _wanted(self, value: Value) -> bool:
        return value in self._demanded or value in self._settled

    def _look_down(self, value: Value) -> None:
        """What a value's readers want of it; theirs are known already."""
        users = self.graph.users.get(value, ())
        direct = [user in self.layers and user.inputs[0] is value for user in users]
        behind = [moves(user.op) and user.outputs[0] in self._demanded for user in users]
        if any(direct) or any(behind):
            self._demanded.add(value)
        ends = [
            found or (self._keeps(user.op) and user.outputs[0] in self._settled)
            for found, user in zip(direct, users, strict=True)
        ]
        if users and all(ends) and value not in self.graph.outputs:
            self._settled.add(value)

    def _keeps(self, op: Op) -> bool:
        return isinstance(op, _ARITHMETIC) or moves(op)

    def _look_up(self) -> Iterator[Value]:
        """Points, in order of definition."""
        derived: set[Value] = set()  # from a quantized layer's sums, or from integers
        opened: set[Value] = set()  # the kernel that computes it has an anchor, and goes on
        for value in self.graph.values():
            node = self.graph.producer.get(value)
            if node is not None:
                if node in self.layers or (
                    self._keeps(node.op) and not derived.isdisjoint(node.inputs)
                ):
                    derived.add(value)
                joined = isinstance(node.op, _JOINED) and not opened.isdisjoint(node.inputs)
                if joined or isinstance(node.op, _ANCHORS):
                    opened.add(value)
            if (node is not None and moves(node.op)) or value.type.dtype is not DType.F32:
                continue
            kept = value in self._settled and value in derived
            if value in self._demanded or (kept and self._ends(value, opened)):
                derived.add(value)
                opened.discard(value)
                yield value

    def _ends(self, value: Value, opened: Collection[Value]) -> bool:
        """Whether the kernel that computes a value ends there, and its readers are others."""
        users = set(self.graph.users[value])
        if len(users) > 1:
            return True
        (user,) = users
        if not isinstance(user.op, _JOINED):
            return True
        # One product per kernel: of two operands that are products the later one's kernel goes on.
        others = [operand for operand in user.inputs if operand is not value]
        return value in opened and any(map(self._is_later(value), others))

    def _is_later(self, value: Value) -> Callable[[Value], bool]:
        """Whether a kernel with an anchor computes an operand of one reader, after `value`."""
        here = self._order[self.graph.producer[value]]

        def later(operand: Value) -> bool:
            node = self.graph.producer.get(operand)
            if node is None or len(self.graph.users[operand]) > 1 or operand in self._demanded:
                return False
            if isinstance(node.op, _ANCHORS):
                return self._order[node] > here
            return isinstance(node.op, _JOINED) and any(map(later, node.inputs))

        return later

    def _sources(self, value: Value) -> Iterator[Value]:
        """What a value is made of by movements."""
        node = self.graph.producer.get(value)
        if node is None or not moves(node.op):
            yield value
            return
        for operand in node.inputs:
            yield from self._sources(operand)
