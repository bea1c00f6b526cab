"""Which axes of a graph are a layer's width, and which are heads: what people ask to prune."""

from __future__ import annotations

from collections.abc import Mapping

from optc.ir.graph import Graph, Node
from optc.ir.ops import (
    Attention,
    Conv,
    ConvTranspose,
    EmbeddingBag,
    Gru,
    Linear,
    Lstm,
    MatMul,
    Take,
)
from optc.passes.prune.coupling import Place


def layers_of(graph: Graph) -> Mapping[Place, Node]:
    """The layers with weights, by the axis of their output that is their width."""
    table: dict[Place, Node] = {}
    for node in graph.nodes:
        channel = _channel(node, graph)
        if channel is not None:
            value = node.outputs[0]
            table[value, channel % value.type.rank] = node
    return table


def _channel(node: Node, graph: Graph) -> int | None:
    match node.op:
        case Conv() | ConvTranspose():
            channel = -1 if node.op.channels_last else 1
            return channel if node.inputs[1] in graph.constants else None
        case Linear() | MatMul():
            return -1 if node.inputs[1] in graph.constants else None
        case Take(axis=0) | EmbeddingBag():
            matrix = node.inputs[0].type.rank == 2
            return -1 if matrix and node.inputs[0] in graph.constants else None
        case Lstm() | Gru():
            return -1
    return None


def head_places(graph: Graph) -> set[Place]:
    """Axes along which attention, or products of activations, are computed side by side."""
    return {
        (value, value.type.rank - 3)
        for node in graph.nodes
        if isinstance(node.op, Attention | MatMul)
        and graph.constants.keys().isdisjoint(node.inputs[:2])
        for value in (*node.inputs[:2], node.output)
        if value.type.rank >= 3
    }
