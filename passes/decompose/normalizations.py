"""Norms and softmax as means, differences and quotients."""

from __future__ import annotations

from collections.abc import Mapping

from optc.ir.dtype import DType
from optc.ir.graph import Node, Value
from optc.ir.ops import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
    LogSoftmax,
    Op,
    ReduceMax,
    ReduceMean,
    ReduceSum,
    Reshape,
    RmsNorm,
    Softmax,
    ew,
)  # fmt: skip
from optc.passes.decompose.activations import like
from optc.passes.matching import reshaped
from optc.passes.rewrite import Answer, Miss, Rule, Site

_HALF = (DType.F16, DType.BF16)


def in_f32(rule: Rule) -> Rule:
    """Take apart in f32 what is defined to be computed in f32: half precision sums too coarsely."""

    def widened(node: Node, site: Site) -> Answer:
        dtype = node.output.type.dtype
        if dtype not in _HALF:
            return rule(node, site)
        wide = tuple(_widened(site, value) for value in node.inputs)
        output = Value(node.output.type.with_dtype(DType.F32), node.output.hint)
        result = rule(Node(node.op, wide, (output,), node.loc), site)
        return site.emit(ew.Cast(dtype), result) if isinstance(result, Value) else result

    return widened


def _widened(site: Site, value: Value) -> Value:
    return site.emit(ew.Cast(DType.F32), value) if value.type.dtype in _HALF else value


def _softmax(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, Softmax)
    shifted = _below_maximum(site, node.inputs[0], node.op.axis)
    power = site.emit(ew.Exp(), shifted)
    return site.emit(ew.Div(), power, site.emit(ReduceSum((node.op.axis,), True), power))


def _log_softmax(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, LogSoftmax)
    shifted = _below_maximum(site, node.inputs[0], node.op.axis)
    total = site.emit(ReduceSum((node.op.axis,), True), site.emit(ew.Exp(), shifted))
    return site.emit(ew.Sub(), shifted, site.emit(ew.Log(), total))


def _below_maximum(site: Site, x: Value, axis: int) -> Value:
    return site.emit(ew.Sub(), x, site.emit(ReduceMax((axis,), True), x))


def _layer_norm(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, LayerNorm)
    x, axes = node.inputs[0], _last(node.inputs[0], node.op.axes)
    centred = site.emit(ew.Sub(), x, site.emit(ReduceMean(axes, True), x))
    result = site.emit(ew.Mul(), centred, _inverse_root(site, centred, axes, node.op.epsilon))
    return _affine(site, result, *node.inputs[1:])


def _rms_norm(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, RmsNorm)
    x, axes = node.inputs[0], _last(node.inputs[0], node.op.axes)
    result = site.emit(ew.Mul(), x, _inverse_root(site, x, axes, node.op.epsilon))
    return _affine(site, result, *node.inputs[1:])


def _last(x: Value, count: int) -> tuple[int, ...]:
    return tuple(range(x.type.rank - count, x.type.rank))


def _inverse_root(site: Site, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """1 / sqrt(mean(x^2) + epsilon)."""
    square = site.emit(ReduceMean(axes, True), site.emit(ew.Mul(), x, x))
    return site.emit(ew.Rsqrt(), site.emit(ew.Add(), square, like(site, x, epsilon)))


def _affine(site: Site, x: Value, *affine: Value) -> Value:
    for op, value in zip((ew.Mul(), ew.Add()), affine, strict=False):
        x = site.emit(op, x, value)
    return x


def _group_norm(node: Node, site: Site) -> Answer:
    """Layer norm over each group, then weight and bias per channel."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, GroupNorm)
    if op.channels_last:
        return Miss("its channels are the last axis, so that a group is not contiguous")
    rows = (x.shape[0], op.groups, x.type.elements // (x.shape[0] * op.groups))
    normal = site.emit(LayerNorm(1, op.epsilon), site.emit(Reshape(rows), x))
    result = reshaped(site, normal, x.shape)
    column = (x.shape[1], *[1] * (x.type.rank - 2))
    return _affine(site, result, *(reshaped(site, value, column) for value in node.inputs[1:]))


def _batch_norm(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, BatchNorm)
    x = node.inputs[0]
    column = (x.shape[-1],) if node.op.channels_last else (x.shape[1], *[1] * (x.type.rank - 2))
    mean, variance, scale, bias = (reshaped(site, value, column) for value in node.inputs[1:])
    spread = site.emit(ew.Add(), variance, like(site, x, node.op.epsilon))
    factor = site.emit(ew.Mul(), scale, site.emit(ew.Rsqrt(), spread))
    return _affine(site, site.emit(ew.Sub(), x, mean), factor, bias)


RULES: Mapping[type[Op], Rule] = {
    Softmax: in_f32(_softmax),
    LogSoftmax: in_f32(_log_softmax),
    LayerNorm: in_f32(_layer_norm),
    RmsNorm: in_f32(_rms_norm),
    GroupNorm: in_f32(_group_norm),
    BatchNorm: in_f32(_batch_norm),
}
