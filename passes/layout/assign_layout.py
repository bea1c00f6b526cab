"""Put channels last where convolutions run, and move the transposes to where they cancel.

Kernels want the channels of a pixel side by side. A value that a convolution makes is kept with
its channels last, and so is everything computed from it, until a node needs the order the model
was written in; only there is a transpose emitted, and only once for each value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from optc.ir.builder import Builder, live_nodes
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Conv, ConvTranspose, Op, Reshape, Transpose
from optc.ir.targets.target import Arch
from optc.passes.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class AssignLayout(Pass):
    """Run convolutions and what surrounds them with channels last."""

    name = "assign-layout"
    effect = Effect.ROUNDING  # sums over pixels run in another order

    def run(self, module: Module, ctx: PassContext) -> Module:
        """Rewrite the graphs that have convolutions with channels first."""
        if ctx.target.arch is Arch.CUDA:  # threads side by side read pixels side by side
            return module
        return module.with_graphs(tuple(_assign(graph) for graph in module.graphs))


def _assign(graph: Graph) -> Graph:
    if not any(_starts(node) for node in graph.nodes):
        return graph
    layout = Layout(graph)
    for node in graph.nodes:
        layout.add(node)
    outputs = [layout.first(value) for value in graph.outputs]
    layout.builder.nodes = list(live_nodes(layout.builder.nodes, outputs))
    return layout.builder.build(outputs)


def _starts(node: Node) -> bool:
    return isinstance(node.op, Conv | ConvTranspose) and not node.op.channels_last


def to_last(rank: int) -> tuple[int, ...]:
    """The permutation that moves axis 1 to the end."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    """The permutation that moves the last axis to place 1."""
    return (0, rank - 1, *range(1, rank - 1))


class Layout:
    """The graph being built, and for each value its two forms: as written, and channels last."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.builder = Builder(graph.name)
        self.builder.inputs = list(graph.inputs)
        self.builder.constants = dict(graph.constants)
        self._first: dict[Value, Value] = {
            value: value for value in (*graph.inputs, *graph.constants)
        }
        self._last: dict[Value, Value] = {}

    def add(self, node: Node) -> None:
        """Copy a node, with channels last where one of its inputs is or a convolution wants it."""
        from optc.passes.layout.rules import RULES  # rules speak of layouts: they import this file

        self.builder.loc = node.loc
        rule: Rule | None = RULES.get(type(node.op))
        concerned = _starts(node) or any(self.is_last(v) for v in node.inputs)
        if rule is not None and concerned and rule(node, self):
            return
        inputs = tuple(self.first(value) for value in node.inputs)
        same = all(new is old for new, old in zip(inputs, node.inputs, strict=True))
        copy = node if same else replace(node, inputs=inputs)
        self.builder.append(copy)
        self._first.update((value, value) for value in node.outputs)

    def is_last(self, value: Value) -> bool:
        """Whether the value is at hand with channels last."""
        return value in self._last

    def first(self, value: Value) -> Value:
        """The value as the model was written; transposed here if it is at hand only otherwise."""
        if value not in self._first:
            op = Transpose(perm=to_first(value.type.rank))
            self._first[value] = self.builder.emit(op, self._last[value], hint=value.hint)
        return self._first[value]

    def last(self, value: Value) -> Value:
        """The value with channels last; transposed here if it is at hand only as written."""
        if value not in self._last:
            self._last[value] = self.moved(self.first(value))
        return self._last[value]

    def moved(self, value: Value) -> Value:
        """A value transposed to channels last; with one channel, or one pixel, only reshaped."""
        op = Transpose(perm=to_last(value.type.rank))
        (kind,) = op.infer(value.type)
        cheaper: Op = op if op.moves(value.shape) else Reshape(shape=kind.shape)
        return self.builder.emit(cheaper, value, hint=value.hint)

    def constant_of(self, value: Value) -> bool:
        """Whether the value is a constant, which any form of costs nothing."""
        return value in self.graph.constants

    def set_last(self, old: Value, new: Value) -> None:
        """`new` is `old` with channels last."""
        self._last[old] = new

    def set_first(self, old: Value, new: Value) -> None:
        """`new` stands for `old`, as written."""
        self._first[old] = new


# Emits a node's channels-last form and says so, or returns False to have it copied as it is.
Rule = Callable[[Node, Layout], bool]
Rules = Mapping[type, Rule]
