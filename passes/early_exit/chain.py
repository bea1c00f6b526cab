"""Stage boundaries: the single values that all later work depends on.

They are the dominators of the result in the graph of heavy nodes (Lengauer and Tarjan 1979). What
costs next to nothing, such as a mask made from an input, may bypass a boundary: it is handed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import networkx as nx

from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import CONTRACTION
from optc.ir.targets.target import Target
from optc.passes.early_exit.price import seconds

LIGHT = 0.01  # of all work: what is made with less may bypass a boundary
SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Boundary:
    """A value that the model's later work hangs on, and the share of all work behind it."""

    value: Value
    saved: float


def boundaries(graph: Graph, result: Value, target: Target) -> tuple[Boundary, ...]:
    """The boundaries in order of execution. Of those with about the same work the last counts."""
    if result not in graph.producer:
        return ()
    price = {node: seconds(node, target) for node in cone(graph, (result,))}
    whole = sum(price.values()) or 1.0
    found: list[Boundary] = []
    done: set[Node] = set()
    for node in _dominators(graph, result, price, LIGHT * whole):
        done |= cone(graph, node.outputs)
        saved = 1.0 - sum(price[n] for n in done) / whole
        if len(node.outputs) != 1 or not node.output.type.dtype.is_float:
            continue
        if found and found[-1].saved - saved < LIGHT:
            found.pop()
        found.append(Boundary(node.output, saved))
    return tuple(found)


def cone(graph: Graph, values: Sequence[Value]) -> set[Node]:
    """The nodes that values depend on."""
    found: set[Node] = set()
    queue = list(values)
    while queue:
        node = graph.producer.get(queue.pop())
        if node is not None and node not in found:
            found.add(node)
            queue += node.inputs
    return found


def _dominators(
    graph: Graph, result: Value, price: dict[Node, float], light: float
) -> Iterator[Node]:
    """Nodes through which every path of the main stream goes, the earliest first, not the result's.

    The main stream is what contractions read, and what took some work: a residual branch of an
    input is part of it, a mask that is only added is not.
    """
    main = {v for n in price if isinstance(n.op, CONTRACTION) for v in n.inputs[:3]}
    main -= set(graph.constants)
    behind: dict[Node, float] = {}
    flow = nx.DiGraph()
    flow.add_node(SOURCE)
    flow.add_edges_from((SOURCE, value) for value in graph.inputs if value in main)
    for node in graph.nodes:
        if node not in price:
            continue
        makers = {graph.producer[v] for v in node.inputs if v in graph.producer}
        behind[node] = price[node] + sum(behind[maker] for maker in makers)
        before = [graph.producer.get(value, value) for value in node.inputs if value in main]
        if behind[node] > light or not main.isdisjoint(node.outputs):
            main.update(node.outputs)
            flow.add_edges_from((maker, node) for maker in before or (SOURCE,))
    last = graph.producer[result]
    if last not in flow:
        return
    above = nx.immediate_dominators(flow, SOURCE)
    chain: list[Node] = []
    place = above[last]
    while place != SOURCE:
        chain += [place] if isinstance(place, Node) else []
        place = above[place]
    yield from reversed(chain)
