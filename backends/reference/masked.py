"""Evaluate a module as if positions had been removed: without building the smaller module.

After every node the removed positions of what it computed are zero, and means and norms take their
statistics over the others. The oracle of pruning, and a way to judge what a removal would cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optc.backends.reference.dtypes import to_tensor, widened
from optc.backends.reference.evaluate import run_node
from optc.ir.builder import live_nodes
from optc.ir.flow import follow
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import GroupNorm, LayerNorm, Op, ReduceMean, RmsNorm, ew

DIVISIONS = (ew.FloorDiv, ew.TruncDiv, ew.Fmod, ew.Remainder)
# Which positions of an axis of a value stay.
Keep = Callable[[Value, int], NDArray[np.bool_]]


def run_masked(
    module: Module, inputs: Mapping[str, Tensor], keep: Mapping[str, Keep]
) -> Mapping[str, Tensor]:
    """Outputs of a call with states at their first content; `keep` is by name of the graph."""
    names = {state.name: to_tensor(state.initial) for state in module.states}
    names.update(inputs)

    def masked(graph: Graph, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return run_graph_masked(graph, given, keep[graph.name])

    with torch.no_grad():
        return follow(module, names, masked).outputs


def run_graph_masked(graph: Graph, inputs: Sequence[Tensor], keep: Keep) -> tuple[Tensor, ...]:
    """Outputs of a graph; what was removed of them is zero."""
    values = {
        value: _masked(item, value, keep) for value, item in zip(graph.inputs, inputs, strict=True)
    }
    last = {value: node for node in graph.nodes for value in node.inputs}

    def read(value: Value) -> Tensor:
        if value in graph.constants:
            return _masked(to_tensor(graph.constants[value]), value, keep)
        return values[value]

    for node in live_nodes(graph.nodes, graph.outputs):
        results = _run(node, [read(value) for value in node.inputs], keep)
        for value, item in zip(node.outputs, results, strict=True):
            values[value] = _masked(item, value, keep)
        for value in node.inputs:
            if last[value] is node and value not in graph.outputs:
                values.pop(value, None)
    return tuple(read(value) for value in graph.outputs)


def _masked(tensor: Tensor, value: Value, keep: Keep, filler: int = 0) -> Tensor:
    for axis in range(value.type.rank):
        gone = np.flatnonzero(~keep(value, axis))
        if len(gone):
            # Filled, not multiplied: what a removed position held may be nan.
            tensor = tensor.index_fill(axis, torch.from_numpy(gone), filler)
    return tensor


def _run(node: Node, inputs: list[Tensor], keep: Keep) -> tuple[Tensor, ...]:
    statistic = STATISTICS.get(type(node.op))
    if isinstance(node.op, DIVISIONS) and not inputs[1].is_floating_point():
        # An integer divided by zero is an exception, even where nobody reads the result.
        inputs = [inputs[0], _masked(inputs[1], node.inputs[1], keep, 1)]
    if statistic is None:
        return run_node(node, inputs)
    x = node.inputs[0]
    masks = [torch.from_numpy(keep(x, axis)) for axis in range(x.type.rank)]
    if all(bool(mask.all()) for mask in masks):
        return run_node(node, inputs)
    here = torch.ones(x.shape, dtype=inputs[0].dtype)
    for axis, mask in enumerate(masks):
        here = here * mask.reshape([-1 if a == axis else 1 for a in range(len(masks))])
    result = statistic(node.op, *inputs, here)
    assert isinstance(result, Tensor)
    return (result,)


def _mean(x: Tensor, here: Tensor, axes: tuple[int, ...], *, keepdims: bool) -> Tensor:
    return (x * here).sum(axes, keepdims) / here.sum(axes, keepdims)


def _reduce_mean(op: ReduceMean, x: Tensor, here: Tensor) -> Tensor:
    return _mean(x, here, op.axes, keepdims=op.keepdims) if op.axes else x


def _layer_norm(op: LayerNorm, x: Tensor, *rest: Tensor) -> Tensor:
    *affine, here = rest
    return _affine(_standard(x, here, tuple(range(x.dim() - op.axes, x.dim())), op.epsilon), affine)


def _rms_norm(op: RmsNorm, x: Tensor, *rest: Tensor) -> Tensor:
    *affine, here = rest
    square = _mean(x * x, here, tuple(range(x.dim() - op.axes, x.dim())), keepdims=True)
    return _affine(x * torch.rsqrt(square + op.epsilon), affine)


def _group_norm(op: GroupNorm, x: Tensor, *rest: Tensor) -> Tensor:
    *affine, here = rest
    if op.channels_last:
        x, here = x.movedim(-1, 1), here.movedim(-1, 1)
    grouped = (x.shape[0], op.groups, -1)
    flat = _standard(x.reshape(grouped), here.reshape(grouped), (2,), op.epsilon)
    shape = (-1, *[1] * (x.dim() - 2))
    y = _affine(flat.reshape(x.shape), [item.reshape(shape) for item in affine])
    return y.movedim(1, -1) if op.channels_last else y


def _standard(x: Tensor, here: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    centred = x - _mean(x, here, axes, keepdims=True)
    return centred * torch.rsqrt(_mean(centred**2, here, axes, keepdims=True) + epsilon)


def _affine(x: Tensor, affine: Sequence[Tensor]) -> Tensor:
    for place, item in enumerate(affine):
        x = x * item if place == 0 else x + item
    return x


STATISTICS: Mapping[type[Op], Callable[..., Any]] = {
    ReduceMean: widened(_reduce_mean),
    LayerNorm: widened(_layer_norm),
    RmsNorm: widened(_rms_norm),
    GroupNorm: widened(_group_norm),
}
