"""What arenas would be if kernels wrote their outputs over inputs that end there.

A kernel may write output j over input i where element k of the output needs no other element of
the input than k: it is read before it is overwritten. That is told from a task's body, so that a
residual add at the end of a product counts as an elementwise chain does. Kernels are compiled for
buffers that never overlap, so this is a bound: what the effort would be worth.
"""

from __future__ import annotations

from collections.abc import Iterator

from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import ELEMENTWISE, Reshape, Task
from optc.passes.memory.footprint import ALIGNMENT
from optc.passes.memory.joins import aliases, origin, roots_of


def in_place(node: Node) -> Iterator[tuple[Value, Value]]:
    """Inputs and outputs of a node that could share their bytes."""
    body = node.op.body if isinstance(node.op, Task) else None
    inputs, outputs = (body.inputs, body.outputs) if body else (node.inputs, node.outputs)
    for outer, value in zip(node.inputs, inputs, strict=True):
        same = _same_index(value, body.nodes if body else (node,))
        for result, output in zip(node.outputs, outputs, strict=True):
            if output in same and output.type.dtype.bits == value.type.dtype.bits:
                yield outer, result


def _same_index(value: Value, nodes: tuple[Node, ...]) -> set[Value]:
    """What depends on the value only element by element; empty where anything else reads it."""
    same = {value}
    for node in nodes:
        read = [v for v in node.inputs if v in same]
        if not read:
            continue
        shape = node.outputs[0].shape
        pointwise = isinstance(node.op, ELEMENTWISE) and all(v.shape == shape for v in read)
        if not pointwise and not isinstance(node.op, Reshape):
            return set()
        same.update(node.outputs)
    return same - {value}


def peak_in_place(graph: Graph, *, outputs_outside: bool = True) -> int:
    """The most bytes alive at one node, in the graph's order, if outputs went over dying inputs."""
    alias, root = aliases(graph), roots_of(graph)
    nodes = [node for node in graph.nodes if not isinstance(node.op, Reshape)]
    results = {root(value) for value in graph.outputs}
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    made = {root(value) for node in nodes for value in node.outputs}
    for step, node in enumerate(nodes):
        for value in {root(v) for v in (*node.inputs, *node.outputs)} & made:
            if not (outputs_outside and value in results):
                first.setdefault(value, step)
                last[value] = len(nodes) if value in results else step
    most = 0
    for step, node in enumerate(nodes):
        alive = sum(_bytes(value) for value in first if first[value] <= step <= last[value])
        over: dict[Value, Value] = {}
        for outer, result in in_place(node):
            source = origin(outer, alias)
            ends, begins = last.get(source) == step, first.get(result) == step
            if ends and begins and source not in over and result not in over.values():
                over[source] = result
        most = max(most, alive - sum(map(_bytes, over.values())))
    return most


def _bytes(value: Value) -> int:
    return -(-value.type.nbytes // ALIGNMENT) * ALIGNMENT
