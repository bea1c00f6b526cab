"""Constants that are equal by chance are held apart: one zero bias in all layers couples nothing.

Clean-up keeps one copy of equal constants, so that two layers whose biases are zero share them, as
truly tied weights share a matrix. Vectors and splats cost little to hold once per reader; matrices
stay tied. What is still equal after pruning is merged again by the next clean-up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from optc.ir.constant import Constant, Splat
from optc.ir.graph import Graph, Value


def separated(graph: Graph) -> Graph:
    """The graph with a value of its own for each reading of a shared vector or splat."""
    reads = Counter(value for node in graph.nodes for value in node.inputs)
    shared = {
        value
        for value, item in graph.constants.items()
        if reads[value] > 1 and _is_cheap(item) and value not in graph.outputs
    }
    if not shared:
        return graph
    constants = {value: item for value, item in graph.constants.items() if value not in shared}
    nodes = []
    for node in graph.nodes:
        inputs = []
        for value in node.inputs:
            own = Value(value.type, value.hint) if value in shared else value
            if own is not value:
                constants[own] = graph.constants[value]
            inputs.append(own)
        nodes.append(
            node if shared.isdisjoint(node.inputs) else replace(node, inputs=tuple(inputs))
        )
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _is_cheap(item: Constant) -> bool:
    """Splats, and what has one axis that is not 1."""
    return isinstance(item.source, Splat) or item.type.elements == max(item.type.shape, default=1)
