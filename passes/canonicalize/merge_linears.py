"""Sibling layers on one input as one layer: Q, K and V, or gate and up, in one product."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from optc.ir.builder import live_nodes
from optc.ir.constant import Absent, Constant, constant, splat
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import ELEMENTWISE, QUANTIZATION, Conv, Linear, Op, Reshape, Slice, Transpose
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.rewrite import remap

_CODE = "N0305"


@dataclass(frozen=True)
class MergeLinears(Pass):
    """Compute linear layers (and convolutions) of one input together, and slice the result.

    Reads the input once and gives the threads one large product to share. The slices are free
    where elementwise ops or a transpose read them, as these read the parts in place; elsewhere they
    are copies, which a product with many rows does not win back.
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
                found.setdefault((x, node.op, weight.shape[1:]), []).append(node)
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
        items = [self.graph.constants.get(value) for value in node.inputs[1:]]
        return plain and all(c is not None and not isinstance(c.source, Absent) for c in items)

    def refusal(self, group: Sequence[Node]) -> str:
        """Why merging would not pay; empty when it does."""
        weights = [node.inputs[1] for node in group]
        if any(w in self.graph.outputs or len(self.graph.users[w]) > 1 for w in weights):
            return "others read a weight too, which would be in the model twice"
        rows = group[0].output.type.elements // weights[0].shape[0]
        if rows <= self.options.max_rows or all(self.reads_in_place(node.output) for node in group):
            return ""
        return f"slices of {rows} rows would be copied; see merge-linears{{max_rows={rows}}}"

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
        weights = [self.constants[node.inputs[1]] for node in group]
        inputs = [x, self.joined(weights, "weight")]
        if any(len(node.inputs) > 2 for node in group):
            inputs.append(self.joined([self.bias(node) for node in group], "bias"))
        (type,) = first.op.infer(*(value.type for value in inputs))
        merged = Value(type, "merged")
        self.after[first] = [Node(first.op, tuple(inputs), (merged,), first.loc)]
        start = 0
        for node in group:
            stop = start + node.inputs[1].shape[0]
            piece = Value(node.output.type, node.output.hint)
            op = _slice(type.shape, channel_axis(first), start, stop)
            self.after[first].append(Node(op, (merged,), (piece,), node.loc))
            self.stands_for[node.output] = piece
            start = stop

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
