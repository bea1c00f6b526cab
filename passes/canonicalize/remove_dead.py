"""Dead nodes and constants: what no output needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optc.ir.builder import live_nodes
from optc.ir.graph import Graph
from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class RemoveDead(Pass):
    """Remove nodes and constants that no output of their graph depends on.

    Inputs stay even if nothing reads them: they are the caller's agreement with the model.
    """

    name = "remove-dead"
    effect = Effect.EXACT

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with live nodes only."""
        return module.with_graphs(tuple(map(_live, module.graphs)))


def _live(graph: Graph) -> Graph:
    nodes = live_nodes(graph.nodes, graph.outputs)
    used = {value for node in nodes for value in node.inputs} | set(graph.outputs)
    constants = {value: item for value, item in graph.constants.items() if value in used}
    if len(nodes) == len(graph.nodes) and len(constants) == len(graph.constants):
        return graph
    return replace(graph, nodes=nodes, constants=constants)
