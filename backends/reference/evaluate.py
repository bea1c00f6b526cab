"""Run the IR with torch: the oracle of every test, the engine of calibration and of metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from optc.backends.reference import (
    meaning_contraction,
    meaning_elementwise,
    meaning_movement,
    meaning_normalization,
    meaning_quantization,
    meaning_reduction,
    meaning_sequence,
    meaning_window,
)
from optc.backends.reference.dtypes import TORCH_DTYPE, Meaning, to_dtype, to_tensor
from optc.ir.dtype import DType
from optc.ir.flow import follow
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Op, Task

Observer = Callable[[Node, tuple[Tensor, ...]], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What one call of a module gives: outputs by name, and states as the next call finds them.

    `exit` names the exit that the call took; it is empty where the call went to the end.
    """

    outputs: Mapping[str, Tensor]
    states: Mapping[str, Tensor]
    exit: str = ""


def _task(op: Task, *inputs: Tensor) -> tuple[Tensor, ...]:
    return run_graph(op.body, inputs)


MEANING: Mapping[type[Op], Meaning] = {
    **meaning_elementwise.MEANING,
    **meaning_movement.MEANING,
    **meaning_reduction.MEANING,
    **meaning_contraction.MEANING,
    **meaning_normalization.MEANING,
    **meaning_window.MEANING,
    **meaning_quantization.MEANING,
    **meaning_sequence.MEANING,
    Task: _task,
}


def run(
    module: Module, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor] | None = None
) -> Result:
    """Call a module once; states not given start from their initial content.

    Raises KeyError for a missing input and ValueError for one of another shape or dtype.
    """
    names: dict[str, Tensor] = {
        state.name: (states or {}).get(state.name, to_tensor(state.initial))
        for state in module.states
    }
    for port in module.inputs:
        _check(port.name, inputs[port.name], port.type.shape, port.type.dtype)
        names[port.name] = inputs[port.name]
    way = follow(module, names, run_graph)
    return Result(way.outputs, way.states, way.name)


def run_graph(
    graph: Graph,
    inputs: Sequence[Tensor],
    *,
    observe: Observer | None = None,
    instead: Mapping[Value, Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Outputs of a graph. `observe` sees every node's outputs as they are computed.

    `instead` are tensors in the place of constants. A value is freed after its last use.
    """
    values: dict[Value, Tensor] = {
        **(instead or {}),
        **dict(zip(graph.inputs, inputs, strict=True)),
    }
    dying = last_uses(graph)
    for node in graph.nodes:
        _fetch_constants(graph, node.inputs, values)
        results = run_node(node, [values[value] for value in node.inputs])
        if observe is not None:
            observe(node, results)
        values.update(zip(node.outputs, results, strict=True))
        for value in dying[node]:
            values.pop(value, None)
    _fetch_constants(graph, graph.outputs, values)
    return tuple(values[value] for value in graph.outputs)


def run_node(node: Node, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Outputs of one node."""
    results = MEANING[type(node.op)](node.op, *inputs)
    outputs = results if isinstance(results, tuple) else (results,)
    return tuple(
        to_dtype(item, value.type.dtype) if value.type.dtype is DType.I4 else item
        for item, value in zip(outputs, node.outputs, strict=True)
    )


def _fetch_constants(graph: Graph, wanted: Iterable[Value], values: dict[Value, Tensor]) -> None:
    for value in wanted:
        if value not in values and value in graph.constants:
            values[value] = to_tensor(graph.constants[value])


def last_uses(graph: Graph) -> Mapping[Node, list[Value]]:
    """For each node the values that nothing reads after it."""
    seen = set(graph.outputs)
    dying: dict[Node, list[Value]] = {}
    for node in reversed(graph.nodes):
        dying[node] = [v for v in dict.fromkeys((*node.inputs, *node.outputs)) if v not in seen]
        seen.update(dying[node])
    return dying


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: DType) -> None:
    wanted = TORCH_DTYPE[dtype]
    if tuple(tensor.shape) != shape or tensor.dtype is not wanted:
        found = f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise ValueError(f"input {name} is {shape} of {wanted}, not {found}")


__all__ = ["MEANING", "Observer", "Result", "run", "run_graph", "run_node"]
