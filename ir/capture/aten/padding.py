"""ATen rules: padding, strided views, diagonals and sliding windows: known places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, axis_of, require
from optc.ir.capture.dims import number_of
from optc.ir.constant import Scalar
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Pad, PadMode, ReduceSum

aten = torch.ops.aten


def _widths(rank: int, pad: Sequence[int]) -> tuple[list[int], list[int]]:
    """Low and high per axis from torch's pairs, which start with the last axis."""
    low, high = [0] * rank, [0] * rank
    for place in range(len(pad) // 2):
        low[rank - 1 - place], high[rank - 1 - place] = pad[2 * place], pad[2 * place + 1]
    return low, high


def _crop(ctx: Context, x: Value, low: Sequence[int], high: Sequence[int]) -> Value:
    for axis in range(x.type.rank):
        stop = x.shape[axis] + min(high[axis], 0)
        x = ctx.slice(x, axis, -min(low[axis], 0), stop)
    return x


def constant_pad(ctx: Context, x: Value, pad: Sequence[int], value: Scalar = 0) -> Value:
    """Surround by a number; a negative width cuts off."""
    low, high = _widths(x.type.rank, pad)
    x = _crop(ctx, x, low, high)
    low, high = [max(n, 0) for n in low], [max(n, 0) for n in high]
    if not any(low) and not any(high):
        return x
    kind = x.type.dtype
    number = bool(value) if kind is DType.BOOL else float(value) if kind.is_float else int(value)
    return ctx.emit(Pad(tuple(low), tuple(high), PadMode.CONSTANT, number), x)


def pad_by(mode: PadMode) -> Callable[..., Value]:
    """Surround by the tensor's own elements."""

    def run(ctx: Context, x: Value, pad: Sequence[int]) -> Value:
        low, high = _widths(x.type.rank, pad)
        if mode is not PadMode.CIRCULAR and min(pad, default=0) < 0:
            return _by_places(ctx, x, low, high, mode)
        x = _crop(ctx, x, low, high)
        low, high = [max(n, 0) for n in low], [max(n, 0) for n in high]
        if not any(low) and not any(high):
            return x
        return ctx.emit(Pad(tuple(low), tuple(high), mode), x)

    return run


def _by_places(
    ctx: Context, x: Value, low: Sequence[int], high: Sequence[int], mode: PadMode
) -> Value:
    """Padding with negative widths, which still mirrors what was cut off."""
    for axis, (before, after) in enumerate(zip(low, high, strict=True)):
        last = x.shape[axis] - 1
        places = np.arange(-before, last + 1 + after)
        if mode is PadMode.REPLICATE:
            places = places.clip(0, last)
        else:
            places = last - abs(last - abs(places))
        if before or after:
            x = ctx.take(x, axis, places)
    return x


def as_strided(
    ctx: Context, x: Value, size: Sequence[int], stride: Sequence[int], offset: int | None = None
) -> Value:
    """A view of the memory: constant places in the elements as they lie in memory."""
    source = ctx.node.args[0].meta["val"]  # type: ignore[union-attr]
    steps = [number_of(step, ctx.assignment) for step in source.stride()]
    require(source.storage_offset() == 0, "it reads memory outside of its operand")
    places = np.asarray(offset or 0)
    for extent, step in zip(size, stride, strict=True):
        places = places[..., None] + np.arange(extent) * step
    order = sorted(range(x.type.rank), key=lambda axis: -steps[axis])
    dense = ctx.permute(x, order)
    flat = ctx.reshape(dense, (-1,))
    rows = [int(np.prod(dense.shape[axis + 1 :], dtype=int)) for axis in range(x.type.rank)]
    wanted = [steps[axis] for axis in order]
    same = all(a == b for a, b, n in zip(wanted, rows, dense.shape, strict=True) if n > 1)
    inside = places.size == 0 or (places.min() >= 0 and places.max() < flat.type.elements)
    require(same and inside, "it reads memory outside of its operand")
    return ctx.take(flat, 0, places)


def diagonal(ctx: Context, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """A diagonal of two axes, as the last axis."""
    rank = x.type.rank
    first, second = axis_of(dim1, rank), axis_of(dim2, rank)
    rest = [axis for axis in range(rank) if axis not in (first, second)]
    matrix = ctx.permute(x, [*rest, first, second])
    rows, columns = matrix.shape[-2:]
    start = offset if offset >= 0 else -offset * columns
    room = min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns)
    places = start + np.arange(max(room, 0)) * (columns + 1)
    flat = ctx.reshape(matrix, (*matrix.shape[:-2], rows * columns))
    return ctx.take(flat, rank - 2, places)


def trace(ctx: Context, x: Value) -> Value:
    """Sum of the diagonal."""
    return ctx.emit(ReduceSum((0,)), ctx.cast(diagonal(ctx, x), ctx.dtype()))


def unfold(ctx: Context, x: Value, dim: int, size: int, step: int) -> Value:
    """Windows along an axis; the place in a window is the last axis."""
    if x.type.rank == 0:
        return ctx.reshape(x, (1,)) if size else ctx.slice(ctx.reshape(x, (1,)), 0, 0, 0)
    axis = axis_of(dim, x.type.rank)
    starts = np.arange(0, x.shape[axis] - size + 1, step)
    windows = ctx.take(x, axis, starts[:, None] + np.arange(size))
    return ctx.move_axis(windows, axis + 1, x.type.rank)


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.constant_pad_nd.default: constant_pad,
    aten.reflection_pad1d.default: pad_by(PadMode.REFLECT),
    aten.reflection_pad2d.default: pad_by(PadMode.REFLECT),
    aten.reflection_pad3d.default: pad_by(PadMode.REFLECT),
    aten.replication_pad1d.default: pad_by(PadMode.REPLICATE),
    aten.replication_pad2d.default: pad_by(PadMode.REPLICATE),
    aten.replication_pad3d.default: pad_by(PadMode.REPLICATE),
    aten._pad_circular.default: pad_by(PadMode.CIRCULAR),
    aten.as_strided.default: as_strided,
    aten.diagonal.default: diagonal,
    aten.trace.default: trace,
    aten.unfold.default: unfold,
}
