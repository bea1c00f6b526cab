"""Nodes with other constants: what passes share that scale weights and leave the function alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from optc.ir.constant import Absent, from_floats, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value

Floats = NDArray[np.float64]
SCALED, LEFT = "N0334", "N0335"  # remarks: a layer was scaled, or was left as it is


def is_known(graph: Graph, *values: Value) -> bool:
    """Whether values are constants of f32 at hand."""
    items = [graph.constants.get(value) for value in values]
    known = all(item is not None and not isinstance(item.source, Absent) for item in items)
    return known and all(value.type.dtype is DType.F32 for value in values)


def floats(graph: Graph, value: Value) -> Floats:
    """A constant's numbers."""
    found: Floats = to_floats(graph.constants[value]).astype(np.float64)
    return found


def with_numbers(graph: Graph, changed: Mapping[tuple[Node, int], Floats]) -> Graph:
    """The graph with new constants for inputs of nodes, by their places; others may go on reading
    the old ones. A place behind the last input adds one. Values of nodes stay the same objects.
    """
    if not changed:
        return graph
    constants = dict(graph.constants)
    nodes = []
    for node in graph.nodes:
        inputs = list(node.inputs)
        for place in range(len(inputs) + 1):
            if (node, place) in changed:
                old = inputs[place] if place < len(inputs) else None
                hint = old.hint if old is not None else f"{node.outputs[0].hint}_bias"
                item = from_floats(changed[node, place].astype(np.float32), DType.F32)
                fresh = Value(item.type, hint)
                constants[fresh] = item
                inputs[place : place + 1] = [fresh]
        same = all(new is old for new, old in zip(inputs, node.inputs, strict=False))
        if same and len(inputs) == len(node.inputs):
            nodes.append(node)
        else:
            nodes.append(Node(node.op, tuple(inputs), node.outputs, node.loc))
    read = {value for node in nodes for value in node.inputs} | set(graph.outputs)
    kept = {value: item for value, item in constants.items() if value in read}
    return replace(graph, nodes=tuple(nodes), constants=kept)
