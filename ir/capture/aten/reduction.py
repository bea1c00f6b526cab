"""ATen rules: folds along axes, variances and norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, axes_of, axis_of
from optc.ir.constant import Scalar
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import (
    ArgMax,
    ArgMin,
    CumProd,
    CumSum,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    ew,
)
from optc.ir.ops.reduction import ArgReduce, Reduce

aten = torch.ops.aten
Axes = int | Sequence[int] | None


def fold(op: type[Reduce], x: Value, ctx: Context, axes: Axes, keepdims: bool) -> Value:
    """A reduction over axes in torch's spelling; a tensor without axes is its own fold."""
    found = axes_of(axes, x.type.rank)
    return ctx.emit(op(found, keepdims), x) if found else x


def reduce_as(op: type[Reduce]) -> Callable[..., Value]:
    """Fold in the element type of the result."""

    def run(ctx: Context, x: Value, dim: Axes = None, keepdim: bool = False, **_: Any) -> Value:
        return fold(op, ctx.cast(x, ctx.dtype()), ctx, dim, keepdim)

    return run


def extreme(op: type[Reduce]) -> Callable[..., Value]:
    """Largest or smallest; of bools, any or all."""

    def run(ctx: Context, x: Value, dim: Axes = (), keepdim: bool = False) -> Value:
        if x.type.dtype is DType.BOOL:
            return fold(ReduceAny if op is ReduceMax else ReduceAll, x, ctx, dim, keepdim)
        return fold(op, x, ctx, dim, keepdim)

    return run


def truth(op: type[Reduce]) -> Callable[..., Value]:
    """any and all, of anything."""

    def run(ctx: Context, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
        return ctx.cast(fold(op, ctx.cast(x, DType.BOOL), ctx, dim, keepdim), ctx.dtype())

    return run


def place(op: type[ArgReduce]) -> Callable[..., Value]:
    """argmax and argmin; without an axis, in the flattened tensor."""

    def run(ctx: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
        rank = x.type.rank
        if rank == 0:
            return ctx.full(x.type.with_dtype(DType.I64), 0)
        if dim is not None:
            return ctx.emit(op(axis_of(dim, rank), keepdim), x)
        found = ctx.emit(op(0), ctx.reshape(x, (-1,)))
        return ctx.reshape(found, (1,) * rank) if keepdim else found

    return run


def extreme_and_place(op: type[Reduce], arg: type[ArgReduce]) -> Callable[..., list[Value]]:
    """max and min along an axis, with their places."""

    def run(ctx: Context, x: Value, dim: int, keepdim: bool = False) -> list[Value]:
        values = extreme(op)(ctx, x, dim, keepdim) if ctx.used(0) else x
        return [values, place(arg)(ctx, x, dim, keepdim) if ctx.used(1) else x]

    return run


def running(op: type[CumSum | CumProd]) -> Callable[..., Value]:
    """Running sum or product."""

    def run(ctx: Context, x: Value, dim: int, **_: Any) -> Value:
        x = ctx.cast(x, ctx.dtype())
        return ctx.emit(op(axis_of(dim, x.type.rank)), x) if x.type.rank else x

    return run


def widened(ctx: Context, x: Value) -> Value:
    """The value in f32 when it is a half, else as it is."""
    return ctx.cast(x, DType.F32) if x.type.dtype in (DType.F16, DType.BF16) else x


def spread(
    ctx: Context, x: Value, axes: tuple[int, ...], correction: float, keepdims: bool
) -> tuple[Value, Value]:
    """Variance in two passes, and the mean; both with their axes when `keepdims`.

    Of f16 and bf16 both are f32, as in torch: else each step would round, and squares overflow.
    """
    x = widened(ctx, x)
    kind = x.type.dtype
    mean = ctx.emit(ReduceMean(axes, True), x) if axes else x
    away = ctx.emit(ew.Sub(), x, mean)
    squares = ctx.emit(ew.Mul(), away, away)
    count = math.prod(x.shape[axis] for axis in axes)
    if correction == 0 and axes:
        variance = ctx.emit(ReduceMean(axes, keepdims), squares)
    else:
        total = ctx.emit(ReduceSum(axes, keepdims), squares) if axes else squares
        divisor = ctx.number(max(float(count - correction), 0.0), kind)
        variance = ctx.emit(ew.Div(), total, divisor)
    if not keepdims:
        mean = ctx.reshape(mean, variance.shape)
    return variance, mean


def _correction(unbiased: bool | None, correction: Scalar | None) -> float:
    if correction is not None:
        return float(correction)
    return 0.0 if unbiased is False else 1.0


def var(
    ctx: Context,
    x: Value,
    dim: Axes = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Scalar | None = None,
) -> Value:
    """Variance, `correction` being taken from the count."""
    axes = axes_of(dim, x.type.rank)
    return ctx.cast(
        spread(ctx, x, axes, _correction(unbiased, correction), keepdim)[0], x.type.dtype
    )


def std(ctx: Context, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Square root of the variance."""
    return ctx.emit(ew.Sqrt(), var(ctx, x, *args, **kwargs))


def var_mean(
    ctx: Context,
    x: Value,
    dim: Axes = None,
    *,
    correction: Scalar | None = None,
    keepdim: bool = False,
) -> list[Value]:
    """Variance and mean."""
    axes = axes_of(dim, x.type.rank)
    found = spread(ctx, x, axes, _correction(None, correction), keepdim)
    return [ctx.cast(item, x.type.dtype) for item in found]


def vector_norm(
    ctx: Context, x: Value, ord: Scalar = 2, dim: Axes = None, keepdim: bool = False, **_: Any
) -> Value:
    """(sum |x|^p)^(1/p), and its limits at 0 and infinity."""
    x = ctx.cast(x, ctx.dtype())
    kind = x.type.dtype
    if ord == 2:
        total = fold(ReduceSum, ctx.emit(ew.Mul(), x, x), ctx, dim, keepdim)
        return ctx.emit(ew.Sqrt(), total)
    if ord == 0:
        present = ctx.emit(ew.NotEqual(), x, ctx.number(0, kind))
        return fold(ReduceSum, ctx.cast(present, kind), ctx, dim, keepdim)
    size = ctx.emit(ew.Abs(), x)
    if math.isinf(ord):
        return fold(ReduceMax if ord > 0 else ReduceMin, size, ctx, dim, keepdim)
    if ord == 1:
        return fold(ReduceSum, size, ctx, dim, keepdim)
    powers = ctx.emit(ew.Pow(), size, ctx.number(float(ord), kind))
    total = fold(ReduceSum, powers, ctx, dim, keepdim)
    return ctx.emit(ew.Pow(), total, ctx.number(1.0 / ord, kind))


def distances(ctx: Context, away: Value, p: float) -> Value:
    """Norm over the last axis of differences."""
    kind = away.type.dtype
    axis = (away.type.rank - 1,)
    size = ctx.emit(ew.Abs(), away)
    if p == 2:
        total = ctx.emit(ReduceSum(axis), ctx.emit(ew.Mul(), away, away))
        return ctx.emit(ew.Sqrt(), total)
    if p == 0:
        present = ctx.emit(ew.NotEqual(), away, ctx.number(0, kind))
        return ctx.emit(ReduceSum(axis), ctx.cast(present, kind))
    if p == 1:
        return ctx.emit(ReduceSum(axis), size)
    if math.isinf(p):
        return ctx.emit(ReduceMax(axis), size)
    total = ctx.emit(ReduceSum(axis), ctx.emit(ew.Pow(), size, ctx.number(p, kind)))
    return ctx.emit(ew.Pow(), total, ctx.number(1.0 / p, kind))


def cdist(ctx: Context, a: Value, b: Value, p: float, _: int | None = None) -> Value:
    """Distances of all rows of a and all rows of b."""
    if not a.shape[-1] or not torch.Size(ctx.shape()).numel():
        return ctx.full(a.type.with_shape(ctx.shape()), 0)
    rows, columns = ctx.unsqueeze(a, a.type.rank - 1), ctx.unsqueeze(b, b.type.rank - 2)
    return distances(ctx, ctx.emit(ew.Sub(), rows, columns), p)


def pdist(ctx: Context, x: Value, p: float = 2) -> Value:
    """Distances of all pairs of different rows, in order."""
    first, second = torch.triu_indices(x.shape[0], x.shape[0], 1)
    if not first.numel() or not x.shape[1]:
        return ctx.full(x.type.with_shape(first.shape), 0)
    away = ctx.emit(ew.Sub(), ctx.take(x, 0, first), ctx.take(x, 0, second))
    return distances(ctx, away, p)


def all_elements(rule: Callable[..., Any]) -> Callable[..., Any]:
    """An overload that takes no axes."""

    def run(ctx: Context, x: Value, **kwargs: Any) -> Any:
        return rule(ctx, x, None, **kwargs)

    return run


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.sum.default: reduce_as(ReduceSum),
    aten.sum.dim_IntList: reduce_as(ReduceSum),
    aten.mean.default: reduce_as(ReduceMean),
    aten.mean.dim: reduce_as(ReduceMean),
    aten.prod.default: reduce_as(ReduceProd),
    aten.prod.dim_int: reduce_as(ReduceProd),
    aten.amax.default: extreme(ReduceMax),
    aten.amin.default: extreme(ReduceMin),
    aten.max.default: all_elements(extreme(ReduceMax)),
    aten.min.default: all_elements(extreme(ReduceMin)),
    aten.max.dim: extreme_and_place(ReduceMax, ArgMax),
    aten.min.dim: extreme_and_place(ReduceMin, ArgMin),
    aten.argmax.default: place(ArgMax),
    aten.argmin.default: place(ArgMin),
    aten.any.default: truth(ReduceAny),
    aten.any.dim: truth(ReduceAny),
    aten.any.dims: truth(ReduceAny),
    aten.all.default: truth(ReduceAll),
    aten.all.dim: truth(ReduceAll),
    aten.all.dims: truth(ReduceAll),
    aten.cumsum.default: running(CumSum),
    aten.cumprod.default: running(CumProd),
    aten.var.correction: var,
    aten.var.dim: var,
    aten.std.correction: std,
    aten.var_mean.correction: var_mean,
    aten.linalg_vector_norm.default: vector_norm,
    aten._cdist_forward.default: cdist,
    aten._pdist_forward.default: pdist,
}
