"""A graph while its layouts are chosen: each value in up to two forms, and rules that make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from optc.ir.builder import Builder
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Op, Reshape, Transpose


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

    def copy(self, node: Node) -> None:
        """The node as it is written, of inputs as they are written."""
        inputs = tuple(self.first(value) for value in node.inputs)
        same = all(new is old for new, old in zip(inputs, node.inputs, strict=True))
        self.builder.append(node if same else replace(node, inputs=inputs))
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
