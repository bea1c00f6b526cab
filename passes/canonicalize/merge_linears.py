"""Sibling layers on one input as one layer: Q, K and V, or gate and up, in one product."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from optc.ir.builder import live_nodes
from optc.ir.constant import Absent, Constant, constant, splat
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import (
    ELEMENTWISE,
    QUANTIZATION,
    Conv,
    Dequantize,
    Linear,
    Op,
    Quantize,
    Reshape,
    Slice,
    Transpose,
    ew,
)
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.rewrite import remap

_CODE = "N0305"


@dataclass(frozen=True)
class MergeLinears(Pass):
    """Compute linear layers (and convolutions) of one input together, and slice the result.

    Reads the input once and gives the threads one large product to share. The slices are free
    where elementwise ops or a transpose read them, as these read the parts in place; elsewhere they
    are copies, which a product with many rows does not win back. Weights of small integers are
    joined as they are, with their scales; layers whose result is quantized at once stay apart, as
    each writes bytes in the kernel of its own.
    """

    name = "merge-linears"
    effect = Effect.ROUNDING
    max_rows: int = 32  # rows of the product up to which slices may be copies
    max_layers: int = 8  # in one product; what reads a slice is a kernel of its own for each place

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with sibling layers merged."""
        return module.with_graphs(
            tuple(_Merge(graph, self, ctx).result() for graph in module.graphs)
        )


class _Merge:
    def __init__(self, graph: Graph, options: MergeLinears, ctx: PassContext) -> None:
        self.graph = graph
        self.options = options
        self.ctx = ctx
        self.constants: dict[Value, Constant] = dict(graph.constants)
        self.after: dict[Node, list[Node]] = {}  # what comes in place of the first sibling
        self.stands_for: dict[Value, Value] = {}

    def result(self) -> Graph:
        """The graph with each group of siblings merged where its first member stood."""
        for group in self.groups():
            reason = self.refusal(group)
            if reason:
                message = f"{len(group)} sibling {group[0].op.name}s not merged: {reason}"
                self.ctx.remark(_CODE, message, group[0].loc)
            else:
                self.merge(group)
        if not self.after:
            return self.graph
        nodes: list[Node] = []
        for old in self.graph.nodes:
            new = [remap(item, self.resolve) for item in self.after.get(old, [old])]
            nodes += new
        outputs = tuple(map(self.resolve, self.graph.outputs))
        live = live_nodes(nodes, outputs)
        used = {value for node in live for value in node.inputs} | set(outputs)
        constants = {value: item for value, item in self.constants.items() if value in used}
        return replace(self.graph, nodes=live, outputs=outputs, constants=constants)

    def resolve(self, value: Value) -> Value:
        return self.stands_for.get(value, value)

    def groups(self) -> list[list[Node]]:
        """Layers that read one value and differ in their output channels alone, some at a time."""
        found: dict[Hashable, list[Node]] = {}
        for node in self.graph.nodes:
            if self.is_layer(node):
                x, weight = node.inputs[:2]
                kind = (x, node.op, weight.shape[1:], self.spelling(weight))
                found.setdefault(kind, []).append(node)
        return [group for items in found.values() for group in self.some_at_a_time(items)]

    def some_at_a_time(self, layers: Sequence[Node]) -> list[list[Node]]:
        """Groups of at most `max_layers`, each of two or more; what was merged counts its parts."""
        groups: list[list[Node]] = [[]]
        count = 0
        for node in layers:
            parts = self.parts(node)
            if count + parts > self.options.max_layers:
                groups.append([])
                count = 0
            groups[-1].append(node)
            count += parts
        return [group for group in groups if len(group) > 1]

    def parts(self, node: Node) -> int:
        users = self.graph.users.get(node.output, ())
        sliced = bool(users) and all(isinstance(user.op, Slice) for user in users)
        return len(users) if sliced and node.output not in self.graph.outputs else 1

    def is_layer(self, node: Node) -> bool:
        plain = isinstance(node.op, Linear) or (isinstance(node.op, Conv) and node.op.groups == 1)
        weight = node.inputs[1:2]
        maker = self.maker(weight[0]) if plain else None
        sources = weight if maker is None else maker.inputs
        items = [self.graph.constants.get(value) for value in (*sources, *node.inputs[2:])]
        whole = all(item is not None and not isinstance(item.source, Absent) for item in items)
        return plain and whole and (maker is None or _by_row(maker))

    def maker(self, weight: Value) -> Node | None:
        """What makes floats of a weight of small integers."""
        node = self.graph.producer.get(weight)
        return node if node is not None and isinstance(node.op, Dequantize) else None

    def spelling(self, weight: Value) -> Hashable:
        """What weights must have alike to lie in one tensor: how their integers are read."""
        maker = self.maker(weight)
        if maker is None:
            return None
        q, scale, zero = maker.inputs
        blocks = scale.shape[1:] or (1,) * (q.type.rank - 1)
        return maker.op, q.type.dtype, blocks, self.graph.constants[zero].array.item()

    def refusal(self, group: Sequence[Node]) -> str:
        """Why merging would not pay; empty when it does."""
        weights = [node.inputs[1] for node in group]
        makers = [maker for w in weights if (maker := self.maker(w)) is not None]
        stored = [*weights, *(maker.inputs[0] for maker in makers)]
        if any(w in self.graph.outputs or len(self.graph.users[w]) > 1 for w in stored):
            return "others read a weight too, which would be in the model twice"
        if makers and any(self.becomes_bytes(node.output) for node in group):
            return "a result is quantized at once, which its own kernel does"
        rows = group[0].output.type.elements // weights[0].shape[0]
        if rows <= self.options.max_rows or all(self.reads_in_place(node.output) for node in group):
            return ""
        return f"slices of {rows} rows would be copied; see merge-linears{{max_rows={rows}}}"

    def becomes_bytes(self, value: Value) -> bool:
        """Whether a reader quantizes the value, perhaps behind a clamp."""
        return any(
            isinstance(user.op, Quantize)
            or (isinstance(user.op, ew.Relu | ew.Clamp) and self.becomes_bytes(user.output))
            for user in self.graph.users.get(value, ())
        )

    def reads_in_place(self, value: Value) -> bool:
        """Whether all readers of `value` can read it out of a larger tensor without a copy."""
        users = self.graph.users.get(value, ())
        return (
            bool(users)
            and value not in self.graph.outputs
            and all(
                isinstance(user.op, (*ELEMENTWISE, *QUANTIZATION, Transpose)) or self.splits(user)
                for user in users
            )
        )

    def splits(self, user: Node) -> bool:
        """A reshape into heads that only transposes and elementwise ops read."""
        return isinstance(user.op, Reshape) and self.reads_in_place(user.output)

    def merge(self, group: Sequence[Node]) -> None:
        first, x = group[0], group[0].inputs[0]
        nodes, weight = self.weight(group)
        inputs = [x, weight]
        if any(len(node.inputs) > 2 for node in group):
            inputs.append(self.joined([self.bias(node) for node in group], "bias"))
        (type,) = first.op.infer(*(value.type for value in inputs))
        merged = Value(type, "merged")
        self.after[first] = [*nodes, Node(first.op, tuple(inputs), (merged,), first.loc)]
        start = 0
        for node in group:
            stop = start + node.inputs[1].shape[0]
            piece = Value(node.output.type, node.output.hint)
            op = _slice(type.shape, channel_axis(first), start, stop)
            self.after[first].append(Node(op, (merged,), (piece,), node.loc))
            self.stands_for[node.output] = piece
            start = stop

    def weight(self, group: Sequence[Node]) -> tuple[list[Node], Value]:
        """All weights as one, and the node that makes floats of it where it is of integers."""
        weights = [node.inputs[1] for node in group]
        makers = [maker for w in weights if (maker := self.maker(w)) is not None]
        if not makers:
            return [], self.joined([self.constants[w] for w in weights], "weight")
        q = self.joined([self.constants[maker.inputs[0]] for maker in makers], "weight")
        scale = self.joined(list(map(self.scale, makers)), "scale")
        result = Value(q.type.with_dtype(makers[0].output.type.dtype), "weight")
        node = Node(makers[0].op, (q, scale, makers[0].inputs[2]), (result,), makers[0].loc)
        return [node], result

    def scale(self, maker: Node) -> Constant:
        """A scale for each row of a weight, also where all have one."""
        q, scale, _ = maker.inputs
        array = self.constants[scale].array
        rows = (q.shape[0], *(array.shape[1:] or (1,) * (q.type.rank - 1)))
        return constant(np.broadcast_to(array, rows))

    def bias(self, node: Node) -> Constant:
        if len(node.inputs) > 2:
            return self.constants[node.inputs[2]]
        weight = node.inputs[1].type
        return splat(0, weight.with_shape(weight.shape[:1]))

    def joined(self, items: Sequence[Constant], hint: str) -> Value:
        """A new constant: the items one after the other along their first axis."""
        item = constant(np.concatenate([item.array for item in items]), items[0].type.dtype)
        value = Value(item.type, hint)
        self.constants[value] = item
        return value


def _by_row(maker: Node) -> bool:
    """Whether a weight has one zero, and one scale or scales of their own for each row."""
    q, scale, zero = maker.inputs
    return zero.type.elements == 1 and (scale.type.rank == 0 or scale.shape[0] in (1, q.shape[0]))


def channel_axis(layer: Node) -> int:
    """The axis of a layer's output that runs over its weight's first axis."""
    if isinstance(layer.op, Conv) and not layer.op.channels_last:
        return 1
    return layer.output.type.rank - 1


def _slice(shape: tuple[int, ...], axis: int, start: int, stop: int) -> Op:
    starts = [0] * len(shape)
    stops = list(shape)
    starts[axis], stops[axis] = start, stop
    return Slice(tuple(starts), tuple(stops), (1,) * len(shape))
