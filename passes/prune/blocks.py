"""Which parts of a graph can be skipped: branches beside a shortcut, layers as wide as their input.

A block is a stretch of the graph whose result can be replaced by a value it starts from: of
`y = x + f(x)` the branch f goes and y becomes x; a chain of layers whose input and output have one
type goes as a whole. Attention and MLP branches are blocks of their own (an extension of EvoP, Wu
et al. 2025, which skips whole decoder layers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise, takewhile

from optc.ir.builder import live_nodes
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import CONTRACTION, Attention, Conv, ConvTranspose, Gru, Lstm, MatMul, ew

WEIGHTY = (*CONTRACTION, Lstm, Gru)


class Kind(Enum):
    """What a block does, as people call it."""

    ATTENTION = "attention branch"
    MLP = "MLP branch"
    CONVOLUTION = "convolution branch"
    LAYER = "layer"


@dataclass(frozen=True, eq=False)
class Block:
    """`end` becomes `start`, and `nodes` are what nobody needs then."""

    kind: Kind
    start: Value
    end: Value
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        """The part of the model's module path that its weighty nodes share."""
        scopes = [node.loc.scope.split(".") for node in self.nodes if isinstance(node.op, WEIGHTY)]
        shared = takewhile(lambda names: len(set(names)) == 1, zip(*scopes, strict=False))
        return ".".join(names[0] for names in shared)

    @property
    def last(self) -> Node:
        """The node that makes `end`."""
        return next(node for node in self.nodes if self.end in node.outputs)


def blocks_of(graph: Graph) -> tuple[Block, ...]:
    """The blocks of a graph in order; none lies within another."""
    branches = tuple(_innermost(tuple(_branches(graph))))
    ends = {block.end for block in branches}
    layers = [b for b in _layers(graph) if not any(ends & {*n.outputs} for n in b.nodes)]
    place = {node: index for index, node in enumerate(graph.nodes)}
    return tuple(sorted((*branches, *layers), key=lambda block: place[block.last]))


def without(graph: Graph, blocks: Collection[Block]) -> Graph:
    """The graph with blocks skipped; the same object when there are none."""
    if not blocks:
        return graph
    skipped = {block.end: block.start for block in blocks}

    def kept(value: Value) -> Value:
        while value in skipped:
            value = skipped[value]
        return value

    outputs = tuple(map(kept, graph.outputs))
    nodes = tuple(_reading(node, (kept(v) for v in node.inputs)) for node in graph.nodes)
    alive = live_nodes(nodes, outputs)
    read = {value for node in alive for value in node.inputs} | set(outputs)
    constants = {value: item for value, item in graph.constants.items() if value in read}
    return replace(graph, nodes=alive, outputs=outputs, constants=constants)


def _reading(node: Node, values: Iterator[Value]) -> Node:
    inputs = tuple(values)
    return node if inputs == node.inputs else replace(node, inputs=inputs)


def _branches(graph: Graph) -> Iterator[Block]:
    """Additions one side of which is computed from the other, or from what that was added to."""
    before = _ancestors(graph)
    shortcut: dict[Value, Value] = {}

    def anchors(value: Value) -> Iterator[Value]:
        while value in shortcut:
            yield value
            value = shortcut[value]
        yield value

    for node in graph.nodes:
        if (
            not isinstance(node.op, ew.Add)
            or len({v.type for v in (*node.inputs, node.output)}) > 1
        ):
            continue
        for start, branch in (node.inputs, node.inputs[::-1]):
            if any(before.get(branch, 0) & before.bit(anchor) for anchor in anchors(start)):
                found = _block(graph, start, node.output)
                if found is not None:
                    shortcut[node.output] = start
                    yield found
                break


def _layers(graph: Graph) -> Iterator[Block]:
    """On a chain without branches: a layer and all up to the next, where the type stays."""
    points = list(_bottlenecks(graph))
    heads = [n for n, (_, heavy) in enumerate(points) if heavy]
    for head, following in pairwise([*heads, len(points)]):
        start, end = points[head - 1][0] if head else None, points[following - 1][0]
        if start is None or start in graph.inputs or start.type != end.type:
            continue
        found = _block(graph, start, end, Kind.LAYER)
        if found is not None:
            yield found


def _bottlenecks(graph: Graph) -> Iterator[tuple[Value, bool]]:
    """The values that alone carry all that follows, and if something weighty lies before each."""
    last = {value: index for index, node in enumerate(graph.nodes) for value in node.inputs}
    last |= dict.fromkeys(graph.outputs, len(graph.nodes))
    alive = {value for value in graph.inputs if value in last}
    heavy = False
    for index, node in enumerate(graph.nodes):
        heavy |= isinstance(node.op, WEIGHTY)
        alive |= {value for value in node.outputs if value in last}
        alive -= {value for value in node.inputs if last[value] == index}
        if len(alive) == 1:
            yield next(iter(alive)), heavy
            heavy = False


def _block(graph: Graph, start: Value, end: Value, kind: Kind | None = None) -> Block | None:
    """The block between two values; None when skipping it saves nothing weighty."""
    outputs = [start if value is end else value for value in graph.outputs]
    nodes = [
        _reading(node, (start if v is end else v for v in node.inputs)) for node in graph.nodes
    ]
    alive = {value for node in live_nodes(nodes, outputs) for value in node.outputs}
    used = {value for node in live_nodes(graph.nodes, graph.outputs) for value in node.outputs}
    dead = tuple(
        node
        for node in graph.nodes
        if alive.isdisjoint(node.outputs) & (not used.isdisjoint(node.outputs))
    )
    if not any(isinstance(node.op, WEIGHTY) for node in dead):
        return None
    return Block(kind or _kind(dead, graph), start, end, dead)


def _kind(nodes: Sequence[Node], graph: Graph) -> Kind:
    ops = [node.op for node in nodes]
    products = [n for n in nodes if isinstance(n.op, MatMul) and n.inputs[1] not in graph.constants]
    if products or any(isinstance(op, Attention) for op in ops):
        return Kind.ATTENTION
    spatial = any(isinstance(op, Conv | ConvTranspose) for op in ops)
    return Kind.CONVOLUTION if spatial else Kind.MLP


def _innermost(blocks: Sequence[Block]) -> Iterator[Block]:
    """Of blocks within one another those that hold no other."""
    made = Counter(value for block in blocks for value in {block.end})
    for block in blocks:
        inside = {value for node in block.nodes for value in node.outputs} - {block.end}
        if made.keys().isdisjoint(inside):
            yield block


class _Ancestry(dict[Value, int]):
    """For each value the set of values it is computed from, itself included, as bits."""

    def bit(self, value: Value) -> int:
        """The bit of one value; 0 for a constant."""
        return self.bits.get(value, 0)

    def __init__(self, bits: Mapping[Value, int]) -> None:
        super().__init__()
        self.bits = bits


def _ancestors(graph: Graph) -> _Ancestry:
    values = [*graph.inputs, *(value for node in graph.nodes for value in node.outputs)]
    found = _Ancestry({value: 1 << index for index, value in enumerate(values)})
    found.update({value: found.bit(value) for value in graph.inputs})
    for node in graph.nodes:
        above = 0
        for value in node.inputs:
            above |= found.get(value, 0)
        found.update({value: above | found.bit(value) for value in node.outputs})
    return found
