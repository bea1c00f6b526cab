"""A module in f64: its function without the rounding of f32, which tells rounding from a mistake.

Two graphs that should compute the same agree here to about 1e-13 of their range, whatever order
they add in; in f32 the difference between right ones may pass that of a wrong one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.ir.builder import Builder
from optc.ir.constant import Constant, Splat, Stored, splat
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.module import Module, Port, State
from optc.ir.ops import ew
from optc.ir.types import TensorType


def doubled(module: Module) -> tuple[Module, Mapping[Value, Value]]:
    """The module with f64 in the place of f32, ports and states too, and what became of each value.

    Raises OpError for ops that are defined by f32, such as those of quantization.
    """
    new: dict[Value, Value] = {}
    return replace(
        module,
        inputs=tuple(Port(port.name, _wide(port.type)) for port in module.inputs),
        outputs=tuple(Port(port.name, _wide(port.type)) for port in module.outputs),
        states=tuple(State(state.name, _constant(state.initial)) for state in module.states),
        graphs=tuple(_graph(graph, new) for graph in module.graphs),
    ), new


def doubled_inputs(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The inputs of a doubled module: f32 made f64, others as they are."""
    narrow = TORCH_DTYPE[DType.F32]
    return {key: x.double() if x.dtype is narrow else x for key, x in inputs.items()}


def _wide(type: TensorType) -> TensorType:
    return type.with_dtype(DType.F64) if type.dtype is DType.F32 else type


def _constant(item: Constant) -> Constant:
    if item.type.dtype is not DType.F32:
        return item
    type = _wide(item.type)
    if isinstance(item.source, Splat):
        return splat(item.source.value, type)
    return Constant(type, Stored(lambda: item.array.astype(type.dtype.storage)))


def _graph(graph: Graph, new: dict[Value, Value]) -> Graph:
    builder = Builder(graph.name)
    for value in graph.inputs:
        new[value] = Value(_wide(value.type), value.hint)
        builder.inputs.append(new[value])
    for value, item in graph.constants.items():
        new[value] = builder.constant(_constant(item), value.hint)
    for node in graph.nodes:
        op = node.op
        if isinstance(op, ew.Cast) and op.dtype is DType.F32:
            op = ew.Cast(DType.F64)
        builder.loc = node.loc
        results = builder.emit_all(op, *(new[value] for value in node.inputs))
        new.update(zip(node.outputs, results, strict=True))
    return builder.build([new[value] for value in graph.outputs])
