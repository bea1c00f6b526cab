"""How far right values may lie apart: what was computed in half floats on the way to them.

A kernel keeps in f32 what its nodes, one by one, round to bf16 or f16. A result in f32, or in
bytes, behind such nodes is as far off as theirs may be, whatever its own dtype promises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optc.ir.dtype import DType
from optc.ir.flow import ways_out
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Task

TOLERANCE: Mapping[DType, float] = {
    DType.F64: 1e-8, DType.F32: 1e-4, DType.F16: 1e-2, DType.BF16: 5e-2,
}  # fmt: skip  # shares of a value's range; other dtypes must be equal
HALVES = (DType.F16, DType.BF16)


def of_values(module: Module) -> Mapping[Value, float]:
    """For each value of a module the tolerance of the coarsest half floats up to it; else 0."""
    return _walk(module)[0]


def of_outputs(module: Module) -> Mapping[str, float]:
    """The same for each output by its name, whichever way a call takes."""
    return _walk(module)[1]


def of_kernel(node: Node) -> Sequence[float]:
    """The same for the outputs of one node whose inputs are given."""
    return _made(node, [0.0] * len(node.inputs))


def _walk(module: Module) -> tuple[dict[Value, float], dict[str, float]]:
    values: dict[Value, float] = {}
    outputs = dict.fromkeys((port.name for port in module.outputs), 0.0)

    def run(graph: Graph, given: Sequence[float]) -> Sequence[float]:
        found = _through(graph, given)
        for value, rough in found.items():  # a graph may run twice
            values[value] = max(rough, values.get(value, 0.0))
        return [found[value] for value in graph.outputs]

    exact = dict.fromkeys([p.name for p in module.inputs] + [s.name for s in module.states], 0.0)
    for way in ways_out(module, exact, run):
        for name, rough in way.outputs.items():
            outputs[name] = max(rough, outputs[name])
    return values, outputs


def _through(graph: Graph, given: Sequence[float]) -> dict[Value, float]:
    known = dict(zip(graph.inputs, given, strict=True))
    known |= dict.fromkeys(graph.constants, 0.0)
    for node in graph.nodes:
        known |= zip(node.outputs, _made(node, [known[v] for v in node.inputs]), strict=True)
    return known


def _made(node: Node, given: Sequence[float]) -> Sequence[float]:
    if isinstance(node.op, Task):
        body = node.op.body
        found = _through(body, given)
        return [found[value] for value in body.outputs]
    before = max(given, default=0.0)
    dtypes = [value.type.dtype for value in node.outputs]
    return [max(before, TOLERANCE[dtype] if dtype in HALVES else 0.0) for dtype in dtypes]
