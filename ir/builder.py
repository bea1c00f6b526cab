"""Builder: the one way to make graphs. Types are inferred: an ill-typed graph cannot be built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from optc.ir.constant import Constant, Scalar, constant, splat
from optc.ir.diagnostics import NOWHERE, Loc
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops.base import Op
from optc.ir.types import TensorType


class Builder:
    """Collects inputs, constants and nodes, then `build`s a graph.

    `loc` is attached to every node emitted while it is set.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.loc: Loc = NOWHERE
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.constants: dict[Value, Constant] = {}
        self._producer: dict[Value, Node] = {}

    def input(self, type: TensorType, hint: str = "x") -> Value:
        """Add a graph input."""
        value = Value(type, hint)
        self.inputs.append(value)
        return value

    def constant(self, item: Constant | np.ndarray, hint: str = "c") -> Value:
        """Add a constant; an array is held by reference."""
        content = item if isinstance(item, Constant) else constant(item)
        value = Value(content.type, hint)
        self.constants[value] = content
        return value

    def splat(self, number: Scalar, type: TensorType, hint: str = "c") -> Value:
        """Add a constant whose elements are all `number`."""
        return self.constant(splat(number, type), hint)

    def emit(self, op: Op, *inputs: Value, hint: str = "") -> Value:
        """Add a node with one output, return it; raises OpError when the op refuses its inputs."""
        (value,) = self.emit_all(op, *inputs, hint=hint)
        return value

    def emit_all(self, op: Op, *inputs: Value, hint: str = "") -> tuple[Value, ...]:
        """Add a node and return all its outputs."""
        types = op.infer(*(value.type for value in inputs))
        node = Node(op, inputs, tuple(Value(type, hint or op.name) for type in types), self.loc)
        self.append(node)
        return node.outputs

    def append(self, node: Node) -> None:
        """Add a node that exists already, as rewriting passes do with what they leave alone."""
        self.nodes.append(node)
        self._producer.update(dict.fromkeys(node.outputs, node))

    def producer(self, value: Value) -> Node | None:
        """The node emitted here that computes `value`; None for inputs and constants."""
        return self._producer.get(value)

    def constant_of(self, value: Value) -> Constant | None:
        """The constant behind `value`, or None."""
        return self.constants.get(value)

    def build(self, outputs: Iterable[Value], *, keep_unused: bool = False) -> Graph:
        """The graph that computes `outputs`; unused constants are dropped unless asked for."""
        results = tuple(outputs)
        used = {value for node in self.nodes for value in node.inputs} | set(results)
        constants = {v: c for v, c in self.constants.items() if keep_unused or v in used}
        return Graph(self.name, tuple(self.inputs), tuple(self.nodes), results, constants)


def live_nodes(nodes: Sequence[Node], outputs: Iterable[Value]) -> tuple[Node, ...]:
    """The nodes that `outputs` depend on, in the same order."""
    needed = set(outputs)
    kept: list[Node] = []
    for node in reversed(nodes):
        if needed.isdisjoint(node.outputs):
            continue
        needed.update(node.inputs)
        kept.append(node)
    return tuple(reversed(kept))
