"""Which values share bytes without a copy: reshapes, and parts computed where they are joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Concat, Reshape


def aliases(graph: Graph) -> dict[Value, Value]:
    """The results of reshapes, each with what it is another name for."""
    return {n.output: n.inputs[0] for n in graph.nodes if isinstance(n.op, Reshape)}


def origin(value: Value, alias: Mapping[Value, Value]) -> Value:
    """What a value is a name for, after all reshapes."""
    while value in alias:
        value = alias[value]
    return value


def joins_of(graph: Graph) -> dict[Node, tuple[int, ...]]:
    """Concats along the outermost axis, by node: which inputs are computed where they are joined.

    An input is if a kernel of this graph makes it, and it is no part yet. The others are copied,
    so that a concat without such an input is better left to a kernel, which has all threads.
    """
    alias = aliases(graph)
    made = {v for n in graph.nodes if not isinstance(n.op, Reshape) for v in n.outputs}
    parts: set[Value] = set()
    joins: dict[Node, tuple[int, ...]] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Concat) or prod(node.output.shape[: node.op.axis]) != 1:
            continue
        origins = [origin(value, alias) for value in node.inputs]
        own = [
            place
            for place, value in enumerate(origins)
            if value in made and value not in parts and value not in origins[:place]
        ]
        if own:
            joins[node] = tuple(own)
            parts.update(origins[place] for place in own)
    return joins


def roots_of(graph: Graph) -> Callable[[Value], Value]:
    """From a value to the one whose memory holds it: what it names, or is joined into."""
    alias = aliases(graph)
    whole = {
        origin(node.inputs[place], alias): node.output
        for node, places in joins_of(graph).items()
        for place in places
    }

    def root(value: Value) -> Value:
        value = origin(value, alias)
        while value in whole:
            value = origin(whole[value], alias)
        return value

    return root
