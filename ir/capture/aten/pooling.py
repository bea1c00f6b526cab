"""ATen rules: pools. A ceil-mode window that sticks out becomes explicit padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, require
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import AdaptiveAvgPool, AvgPool, MaxPool, MaxPoolIndices, ReduceMax, ReduceMean, ew
from optc.ir.ops.contraction import Pairs

aten = torch.ops.aten
Ints = int | Sequence[int]


def _listed(item: Ints, rank: int) -> tuple[int, ...]:
    values = [item] if isinstance(item, int) else list(item)
    return tuple(values * rank if len(values) == 1 else values)


def _pairs(
    extents: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Pairs:
    """(low, high) padding so that exactly torch's windows fit (its `pooling_output_shape`)."""
    pairs = []
    for extent, size, step, pad, gap in zip(
        extents, kernel, stride, padding, dilation, strict=True
    ):
        reach = gap * (size - 1) + 1
        if not ceil_mode:
            pairs.append((pad, pad))
            continue
        count = -(-(extent + 2 * pad - reach) // step) + 1
        # The last window must start inside the input or its low padding.
        count -= (count - 1) * step >= extent + pad
        pairs.append((pad, max((count - 1) * step + reach - extent - pad, 0)))
    return tuple(pairs)


def _batched(ctx: Context, x: Value, rank: int) -> Value:
    return x if x.type.rank == rank + 2 else ctx.unsqueeze(x, 0)


def _like(ctx: Context, result: Value, x: Value) -> Value:
    return result if x.type.rank == result.type.rank else ctx.reshape(result, result.shape[1:])


def max_pool(rank: int, with_indices: bool) -> Callable[..., Any]:
    """Largest of each window; its place only where something reads it."""

    def run(
        ctx: Context,
        x: Value,
        kernel: Ints,
        stride: Ints = (),
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
    ) -> Any:
        source = _batched(ctx, x, rank)
        size, gaps = _listed(kernel, rank), _listed(dilation, rank)
        steps = _listed(stride, rank) if stride else size
        pads = _listed(padding, rank)
        pairs = _pairs(source.shape[2:], size, steps, pads, gaps, ceil_mode)
        if with_indices and ctx.used(1):
            found = ctx.emit_all(MaxPoolIndices(size, steps, pairs, gaps), source)
            return [_like(ctx, item, x) for item in found]
        result = _like(ctx, ctx.emit(MaxPool(size, steps, pairs, gaps), source), x)
        return [result, result] if with_indices else result

    return run


def avg_pool(rank: int) -> Callable[..., Value]:
    """Mean of each window."""

    def run(
        ctx: Context,
        x: Value,
        kernel: Ints,
        stride: Ints = (),
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Value:
        source = _batched(ctx, x, rank)
        size, pads = _listed(kernel, rank), _listed(padding, rank)
        steps, ones = _listed(stride, rank) if stride else size, (1,) * rank
        pairs = _pairs(source.shape[2:], size, steps, pads, ones, ceil_mode)
        counted = tuple((pad, pad) if count_include_pad else (0, 0) for pad in pads)
        op = AvgPool(size, steps, pairs, ones, counted=counted, divisor=divisor)
        if not x.type.dtype.is_float:
            # Integers are summed and divided as such, which truncates.
            mean = ctx.emit(ew.Trunc(), ctx.emit(op, ctx.cast(source, DType.F64)))
            return _like(ctx, ctx.cast(mean, x.type.dtype), x)
        return _like(ctx, ctx.emit(op, source), x)

    return run


def adaptive_avg(rank: int) -> Callable[..., Value]:
    """Mean over windows that cover the input evenly; a plain mean or pool where it is one."""

    def run(ctx: Context, x: Value, size: Ints) -> Value:
        source = _batched(ctx, x, rank)
        wanted = _listed(size, rank)
        extents = source.shape[2:]
        if set(wanted) == {1}:
            axes = tuple(range(2, rank + 2))
            return _like(ctx, ctx.emit(ReduceMean(axes, keepdims=True), source), x)
        op: AvgPool | AdaptiveAvgPool = AdaptiveAvgPool(wanted)
        if all(n and not extent % n for extent, n in zip(extents, wanted, strict=True)):
            window = tuple(extent // n for extent, n in zip(extents, wanted, strict=True))
            none = ((0, 0),) * rank
            op = AvgPool(window, window, none, (1,) * rank, counted=none)
        return _like(ctx, ctx.emit(op, source), x)

    return run


def adaptive_max(rank: int) -> Callable[..., list[Value]]:
    """Largest over windows that cover the input evenly."""

    def run(ctx: Context, x: Value, size: Ints) -> list[Value]:
        source = _batched(ctx, x, rank)
        wanted = _listed(size, rank)
        extents = source.shape[2:]
        if all(not extent % n for extent, n in zip(extents, wanted, strict=True)):
            window = [extent // n for extent, n in zip(extents, wanted, strict=True)]
            return max_pool(rank, with_indices=True)(ctx, x, window)  # type: ignore[no-any-return]
        require(not ctx.used(1), "the places of an adaptive maximum over uneven windows")
        result = source
        for axis, (extent, count) in enumerate(zip(extents, wanted, strict=True), 2):
            # Uneven windows as rows of equal length: a window's last place is repeated.
            starts = np.arange(count) * extent // count
            stops = -(-(np.arange(1, count + 1) * extent) // count)
            places = starts[:, None] + np.arange((stops - starts).max())
            rows = ctx.take(result, axis, np.minimum(places, stops[:, None] - 1))
            result = ctx.emit(ReduceMax((axis + 1,)), rows)
        result = _like(ctx, result, x)
        return [result, result]

    return run


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.max_pool1d.default: max_pool(1, with_indices=False),
    aten.max_pool2d_with_indices.default: max_pool(2, with_indices=True),
    aten.max_pool3d_with_indices.default: max_pool(3, with_indices=True),
    aten.avg_pool1d.default: avg_pool(1),
    aten.avg_pool2d.default: avg_pool(2),
    aten.avg_pool3d.default: avg_pool(3),
    aten.adaptive_avg_pool1d.default: adaptive_avg(1),
    aten._adaptive_avg_pool2d.default: adaptive_avg(2),
    aten._adaptive_avg_pool3d.default: adaptive_avg(3),
    aten.adaptive_max_pool1d.default: adaptive_max(1),
    aten.adaptive_max_pool2d.default: adaptive_max(2),
    aten.adaptive_max_pool3d.default: adaptive_max(3),
}
