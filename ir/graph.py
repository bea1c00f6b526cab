"""The graph: flat, functional, straight-line. Nothing you hold changes under you.

Values compare by identity. A transformation walks the nodes and builds a new graph; what it does
not touch stays the same object, so "unchanged" is `is`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from optc.ir.constant import Constant
from optc.ir.diagnostics import NOWHERE, Loc
from optc.ir.ops.base import Op
from optc.ir.types import TensorType


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """One tensor: an input, a constant or what a node computes. `hint` names it in text form."""

    type: TensorType
    hint: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value's type."""
        return self.type.shape


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One application of an op. `loc` is the line of the user's model that asked for it."""

    op: Op
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    loc: Loc = NOWHERE

    @property
    def output(self) -> Value:
        """The only output; raises ValueError when there are several."""
        (value,) = self.outputs
        return value


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs, nodes in an order that can be executed, outputs, and the constants they use."""

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    constants: Mapping[Value, Constant] = field(default_factory=dict)

    @cached_property
    def producer(self) -> Mapping[Value, Node]:
        """The node that computes each value; inputs and constants are not in it."""
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def users(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read each value, once per read; graph outputs are not counted."""
        users: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                users.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in users.items()}

    def values(self) -> Iterator[Value]:
        """All values in order of definition: inputs, constants, then node outputs."""
        yield from self.inputs
        yield from self.constants
        for node in self.nodes:
            yield from node.outputs

    def with_nodes(self, nodes: Sequence[Node]) -> Graph:
        """The same graph with another node list."""
        return replace(self, nodes=tuple(nodes))
