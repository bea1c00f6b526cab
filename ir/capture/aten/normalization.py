"""ATen rules: norms and softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.aten.reduction import spread, widened
from optc.ir.capture.context import Context, axis_of
from optc.ir.capture.dtypes import TO_TORCH
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
    LogSoftmax,
    ReduceMean,
    RmsNorm,
    Softmax,
    ew,
)

aten = torch.ops.aten
MaybeValue = Value | None


def _affine(
    ctx: Context, like: Value, shape: Sequence[int], w: MaybeValue, b: MaybeValue
) -> list[Value]:
    """Weight and bias as the ops take them: a bias alone gets a weight of ones."""
    kind = like.type.dtype
    if w is None and b is not None:
        w = ctx.full(like.type.with_shape(shape), 1)
    return [ctx.cast(item, kind) for item in (w, b) if item is not None]


def layer_norm(
    ctx: Context,
    x: Value,
    shape: Sequence[int],
    weight: MaybeValue = None,
    bias: MaybeValue = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    """Normalise the last axes."""
    return ctx.emit(LayerNorm(len(shape), eps), x, *_affine(ctx, x, shape, weight, bias))


def _reciprocal_spread(ctx: Context, variance: Value, eps: float) -> Value:
    return ctx.emit(ew.Rsqrt(), ctx.emit(ew.Add(), variance, ctx.number(eps, variance.type.dtype)))


def _saved(ctx: Context, *statistics: Value) -> list[Value]:
    """Outputs after the first, in the types that torch gives them."""
    return [ctx.cast(item, ctx.dtype(place)) for place, item in enumerate(statistics, 1)]


def native_layer_norm(
    ctx: Context, x: Value, shape: Sequence[int], weight: MaybeValue, bias: MaybeValue, eps: float
) -> list[Value]:
    """layer_norm, and the mean and reciprocal spread where something reads them."""
    result = layer_norm(ctx, x, shape, weight, bias, eps)
    if not ctx.used(1) and not ctx.used(2):
        return [result, result, result]
    axes = tuple(range(x.type.rank - len(shape), x.type.rank))
    variance, mean = spread(ctx, x, axes, 0.0, keepdims=True)
    return [result, *_saved(ctx, mean, _reciprocal_spread(ctx, variance, eps))]


def rms_norm(
    ctx: Context,
    x: Value,
    shape: Sequence[int],
    weight: MaybeValue = None,
    eps: float | None = None,
) -> Value:
    """x / sqrt(mean(x^2) + eps); without an eps, torch takes the type's smallest step."""
    kind = x.type.dtype
    half = kind in (DType.F16, DType.BF16)
    step = torch.finfo(torch.float32 if half else TO_TORCH[kind]).eps if eps is None else eps
    weights = _affine(ctx, x, shape, weight, None)
    return ctx.emit(RmsNorm(len(shape), step), x, *weights)


def fused_rms_norm(
    ctx: Context, x: Value, shape: Sequence[int], weight: MaybeValue, eps: float | None
) -> list[Value]:
    """rms_norm, and the reciprocal of the root."""
    result = rms_norm(ctx, x, shape, weight, eps)
    if not ctx.used(1):
        return [result, result]
    axes = tuple(range(x.type.rank - len(shape), x.type.rank))
    wide = widened(ctx, x)
    mean = ctx.emit(ReduceMean(axes, keepdims=True), ctx.emit(ew.Mul(), wide, wide))
    step = torch.finfo(TO_TORCH[wide.type.dtype]).eps if eps is None else eps
    return [result, *_saved(ctx, _reciprocal_spread(ctx, mean, step))]


def native_group_norm(
    ctx: Context,
    x: Value,
    weight: MaybeValue,
    bias: MaybeValue,
    batch: int,
    channels: int,
    _: int,
    groups: int,
    eps: float,
) -> list[Value]:
    """Normalise groups of channels, and the statistics where something reads them."""
    if weight is not None and bias is None:
        bias = ctx.full(weight.type, 0)
    result = ctx.emit(GroupNorm(groups, eps), x, *_affine(ctx, x, (channels,), weight, bias))
    if not ctx.used(1) and not ctx.used(2):
        return [result, result, result]
    variance, mean = spread(ctx, ctx.reshape(x, (batch, groups, -1)), (2,), 0.0, keepdims=False)
    return [result, *_saved(ctx, mean, _reciprocal_spread(ctx, variance, eps))]


def group_norm(
    ctx: Context,
    x: Value,
    groups: int,
    weight: MaybeValue = None,
    bias: MaybeValue = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    """Normalise groups of channels."""
    if weight is not None and bias is None:
        bias = ctx.full(weight.type, 0)
    return ctx.emit(GroupNorm(groups, eps), x, *_affine(ctx, x, (x.shape[1],), weight, bias))


def batch_norm(
    ctx: Context,
    x: Value,
    weight: MaybeValue,
    bias: MaybeValue,
    mean: Value,
    variance: Value,
    _: float,
    eps: float,
) -> list[Value]:
    """Batch norm with the statistics of training."""
    result = ctx.emit(BatchNorm(eps), x, *_statistics(ctx, x, mean, variance, weight, bias))
    empty = ctx.full(x.type.with_shape((0,)).with_dtype(ctx.dtype(1)), 0)
    return [result, empty, empty]


def _statistics(
    ctx: Context, x: Value, mean: Value, variance: Value, weight: MaybeValue, bias: MaybeValue
) -> list[Value]:
    like = x.type.with_shape((x.shape[1],))
    scale = ctx.full(like, 1) if weight is None else weight
    shift = ctx.full(like, 0) if bias is None else bias
    return [ctx.cast(item, x.type.dtype) for item in (mean, variance, scale, shift)]


def batch_norm_of_batch(
    ctx: Context, x: Value, weight: MaybeValue, bias: MaybeValue, eps: float
) -> tuple[list[Value], Value, Value]:
    """Batch norm with the batch's own statistics: (outputs in torch's order, mean, variance)."""
    axes = tuple(axis for axis in range(x.type.rank) if axis != 1)
    wide = widened(ctx, x)
    variance, mean = spread(ctx, wide, axes, 0.0, keepdims=False)
    inputs = _statistics(ctx, wide, mean, variance, weight, bias)
    result = ctx.cast(ctx.emit(BatchNorm(eps), wide, *inputs), x.type.dtype)
    root = _reciprocal_spread(ctx, variance, eps) if ctx.used(2) else mean
    return [result, *_saved(ctx, mean, root)], mean, variance


def legit_no_stats(
    ctx: Context, x: Value, w: MaybeValue, b: MaybeValue, training: bool, _: float, eps: float
) -> list[Value]:
    """_native_batch_norm_legit.no_stats."""
    return batch_norm_of_batch(ctx, x, w, b, eps)[0]


def legit_functional(
    ctx: Context,
    x: Value,
    w: MaybeValue,
    b: MaybeValue,
    running_mean: Value,
    running_variance: Value,
    training: bool,
    momentum: float,
    eps: float,
) -> list[Value]:
    """_native_batch_norm_legit_functional: outputs, then the running statistics as updated."""
    if not training:
        outputs = batch_norm(ctx, x, w, b, running_mean, running_variance, momentum, eps)
        return [*outputs, running_mean, running_variance]
    outputs, mean, variance = batch_norm_of_batch(ctx, x, w, b, eps)
    count = x.type.elements // x.shape[1]
    unbiased = ctx.emit(
        ew.Mul(), variance, ctx.number(count / max(count - 1, 1), variance.type.dtype)
    )
    old = (running_mean, running_variance)
    return [
        *outputs,
        *(_moved(ctx, a, b, momentum) for a, b in zip(old, (mean, unbiased), strict=True)),
    ]


def _moved(ctx: Context, old: Value, new: Value, momentum: float) -> Value:
    kind = old.type.dtype
    kept = ctx.emit(ew.Mul(), old, ctx.number(1.0 - momentum, kind))
    added = ctx.emit(ew.Mul(), ctx.cast(new, kind), ctx.number(momentum, kind))
    return ctx.emit(ew.Add(), kept, added)


def legit(ctx: Context, *args: Any) -> list[Value]:
    """_native_batch_norm_legit: the update of the running statistics is torch's side effect."""
    return legit_functional(ctx, *args)[:3]


def instance_norm(
    ctx: Context,
    x: Value,
    weight: MaybeValue,
    bias: MaybeValue,
    mean: MaybeValue,
    variance: MaybeValue,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    """Group norm with a group per channel; with stored statistics, batch norm."""
    if not use_input_stats and mean is not None and variance is not None:
        return ctx.emit(BatchNorm(eps), x, *_statistics(ctx, x, mean, variance, weight, bias))
    return group_norm(ctx, x, x.shape[1], weight, bias, eps)


def softmax(op: type[Softmax]) -> Callable[..., Value]:
    """Softmax along an axis, in the result's element type; of a scalar it is 1 (its log 0)."""

    def run(ctx: Context, x: Value, dim: int, *_: Any, **__: Any) -> Value:
        x = ctx.cast(x, ctx.dtype())
        if x.type.rank == 0:
            return ctx.full(x.type, 0 if op is LogSoftmax else 1)
        return ctx.emit(op(axis_of(dim, x.type.rank)), x)

    return run


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.layer_norm.default: layer_norm,
    aten.native_layer_norm.default: native_layer_norm,
    aten.rms_norm.default: rms_norm,
    aten._fused_rms_norm.default: fused_rms_norm,
    aten.group_norm.default: group_norm,
    aten.native_group_norm.default: native_group_norm,
    aten._native_batch_norm_legit_no_training.default: batch_norm,
    aten._native_batch_norm_legit.no_stats: legit_no_stats,
    aten._native_batch_norm_legit.default: legit,
    aten._native_batch_norm_legit_functional.default: legit_functional,
    aten.instance_norm.default: instance_norm,
    aten._softmax.default: softmax(Softmax),
    aten.softmax.int: softmax(Softmax),
    aten._log_softmax.default: softmax(LogSoftmax),
    aten.log_softmax.int: softmax(LogSoftmax),
}
