"""Reorder nodes so that less lives at once.

Export follows the program's text: branches of a network are computed as they were written. The
same nodes in another order may need less memory at the worst moment, and give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Reshape
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.memory.footprint import footprint
from optc.passes.memory.order import best_order


@dataclass(frozen=True)
class ReorderNodes(Pass):
    """Reorder nodes where that lowers the largest number of bytes alive at one step.

    The search is exact up to `states` states, a beam of `beam` sets of nodes beyond.
    """

    name = "reorder-nodes"
    effect = Effect.EXACT
    states: int = 10_000  # looked at before the exact search gives up
    beam: int = 32  # sets kept from step to step after that

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with graphs in a better order; the same object when there is none."""
        alone = len(module.graphs) == 1
        return module.with_graphs(
            tuple(self.reordered(graph, ctx, alone) for graph in module.graphs)
        )

    def reordered(self, graph: Graph, ctx: PassContext, alone: bool) -> Graph:
        """The graph in the best order found; what it saves is a remark."""
        first = given = _peak(graph, alone)
        # A beam may find more when it starts from what it has found.
        while True:
            steps = footprint(graph, outputs_outside=alone)
            order = best_order(steps, self.states, self.beam)
            nodes = tuple(_with_reshapes(graph, [steps.nodes[step] for step in order.steps]))
            found = graph.with_nodes(nodes)
            # Which values are joined in place may depend on the order: believe the new graph only.
            if _peak(found, alone) >= given:
                break
            graph, given = found, _peak(found, alone)
        if given < first:
            kind = "no order needs less" if order.exact else "found by a beam"
            text = (
                f"@{graph.name}: the largest live set falls from {first} to {given} bytes; {kind}"
            )
            ctx.remark("N0320", text)
        return graph


def _peak(graph: Graph, alone: bool) -> int:
    steps = footprint(graph, outputs_outside=alone)
    return steps.peak(range(len(steps.nodes)))


def _with_reshapes(graph: Graph, nodes: list[Node]) -> Iterator[Node]:
    """The nodes with each reshape right behind what it views."""
    views: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, Reshape):
            views.setdefault(node.inputs[0], []).append(node)
    for value in (*graph.inputs, *graph.constants):
        yield from _views(views, value)
    for node in nodes:
        yield node
        for value in node.outputs:
            yield from _views(views, value)


def _views(views: Mapping[Value, list[Node]], value: Value) -> Iterator[Node]:
    for node in views.get(value, ()):
        yield node
        yield from _views(views, node.output)
