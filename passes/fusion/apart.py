"""Dequantized values are computed where they are read: memory holds the small integers."""

from __future__ import annotations

from dataclasses import replace

from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Dequantize


def dequantized_apart(graph: Graph) -> Graph:
    """The graph with a dequantize of its own for each reader; the same object where that holds.

    Several tasks may then take one in each. Sums in i32 are no smaller than floats: they stay.
    """
    nodes: list[Node] = []
    own: dict[tuple[Node, Value], Value] = {}
    for old in graph.nodes:
        inputs = tuple(own.get((old, value), value) for value in old.inputs)
        same = all(new is was for new, was in zip(inputs, old.inputs, strict=True))
        node = old if same else replace(old, inputs=inputs)
        nodes.append(node)
        if not isinstance(old.op, Dequantize) or old.inputs[0].type.dtype is DType.I32:
            continue
        # The first reader, or the graph itself, keeps the node that is there.
        readers = list(dict.fromkeys(graph.users.get(old.output, ())))
        for reader in readers if old.output in graph.outputs else readers[1:]:
            value = Value(old.output.type, old.output.hint)
            nodes.append(replace(node, outputs=(value,)))
            own[reader, old.output] = value
    return graph if len(nodes) == len(graph.nodes) else graph.with_nodes(nodes)
