"""Pools: reductions over windows whose overhang is skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm import te, tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.contraction import image_index, split_index, split_shape
from optc.backends.tvm.lower.element import (
    Lowering,
    Read,
    cast,
    compute,
    const,
    guard,
    i32,
    lowest,
    move,
    reader,
    rounded,
    stored,
    wide,
)
from optc.backends.tvm.lower.reduction import arg_extreme, max_of
from optc.ir.dtype import DType
from optc.ir.ops import AdaptiveAvgPool, AvgPool, MaxPool, MaxPoolIndices, Op
from optc.ir.ops.pooling import Pool
from optc.ir.types import TensorType

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]
Axes = list[tirx.IterVar]


def _taps(kernel: Sequence[int]) -> Axes:
    return [te.reduce_axis((0, extent), f"k{i}") for i, extent in enumerate(kernel)]


def _window(
    op: Pool, x: TensorType, read: Read, taps: Axes, index: Sequence[Expr], outside: Expr
) -> tuple[Expr, list[Expr]]:
    """The element under each tap, `outside` beyond the border, and its spatial place."""
    batch, channel, spatial = split_index(index, op.channels_last)
    extents = split_shape(x.shape, op.channels_last)[2]
    places: list[Expr] = []
    conditions: list[Expr] = []
    for i, place in enumerate(spatial):
        low, high = op.padding[i]
        source = place * i32(op.stride[i]) + taps[i].var * i32(op.dilation[i]) - i32(low)
        conditions += [source >= i32(0)] if low else []
        conditions += [source < i32(extents[i])] if high else []
        places.append(source)
    element = read(*image_index(batch, channel, places, op.channels_last))
    inside = guard(tirx.all(*conditions), element, outside) if conditions else element
    return inside, places


def _max_pool(op: MaxPool, tensors: Tensors, types: Types) -> Tensors:
    (x,), (result,) = types, op.infer(*types)
    read, dtype, taps = reader(tensors[0], x), wide(x.dtype), _taps(op.kernel)
    largest = max_of(dtype)

    def element(*index: Expr) -> Expr:
        item, _ = _window(op, x, read, taps, index, lowest(dtype))
        return largest(item, axis=taps)

    return [rounded(te.compute(result.shape, element, name=op.name), result)]


def _max_pool_indices(op: MaxPoolIndices, tensors: Tensors, types: Types) -> Tensors:
    (x,), (result, _) = types, op.infer(*types)
    read, dtype, taps = stored(tensors[0], x), wide(x.dtype), _taps(op.kernel)
    extents = split_shape(x.shape, op.channels_last)[2]
    reducer = arg_extreme(dtype, True, later_nan=True)

    def element(*index: Expr) -> Sequence[Expr]:
        item, places = _window(op, x, read, taps, index, lowest(dtype))
        flat: Expr = i32(0)
        for place, extent in zip(places, extents, strict=True):
            inside = tirx.max(tirx.min(place, i32(extent - 1)), i32(0))
            flat = flat * i32(extent) + inside
        return reducer((flat, item), axis=taps)

    places, values = te.compute(result.shape, element, name="max_pool_pairs")
    flat = move("max_pool_places", result.shape, lambda *i: tirx.Cast("int64", places(*i)))
    return [rounded(values, result), flat]


def _avg_pool(op: AvgPool, tensors: Tensors, types: Types) -> Tensors:
    (x,), (result,) = types, op.infer(*types)
    read, dtype, taps = reader(tensors[0], x), wide(x.dtype), _taps(op.kernel)

    def total(*index: Expr) -> Expr:
        return te.sum(_window(op, x, read, taps, index, const(0.0, dtype))[0], axis=taps)

    sums = te.compute(result.shape, total, name="avg_pool_sum")

    def element(*index: Expr) -> Expr:
        return sums(*index) / divisor(op, x, index, dtype)

    return [compute("avg_pool", result, element)]


def divisor(op: AvgPool, x: TensorType, index: Sequence[Expr], dtype: DType) -> Expr:
    """What the sum of the window at output `index` is divided by."""
    if op.divisor is not None:
        return const(float(op.divisor), dtype)
    extents = split_shape(x.shape, op.channels_last)[2]
    known, count = 1, None
    for i, place in enumerate(split_index(index, op.channels_last)[2]):
        if op.counted[i] == op.padding[i]:
            known *= op.kernel[i]
            continue
        first = place * i32(op.stride[i]) - i32(op.padding[i][0])
        along = _counted(first, op.kernel[i], op.dilation[i], op.counted[i], extents[i])
        count = along if count is None else count * along
    fixed = const(float(known), dtype)
    return fixed if count is None else cast(count, dtype) * fixed


def _counted(first: Expr, kernel: int, step: int, counted: tuple[int, int], extent: int) -> Expr:
    """How many of first, first + step, ... lie in [-counted[0], extent + counted[1])."""
    low, high = -counted[0], extent + counted[1]
    # Divisions of numbers that may be negative: floor towards minus infinity.
    skipped = tirx.max(tirx.floordiv(i32(low + step - 1) - first, i32(step)), i32(0))
    end = tirx.min(tirx.floordiv(i32(high + step - 1) - first, i32(step)), i32(kernel))
    return tirx.max(end - skipped, i32(0))


def _adaptive(op: AdaptiveAvgPool, tensors: Tensors, types: Types) -> Tensors:
    (x,), (result,) = types, op.infer(*types)
    read, dtype = reader(tensors[0], x), wide(x.dtype)
    extents = split_shape(x.shape, op.channels_last)[2]
    spans = [
        max(-(-(i + 1) * extent // size) - i * extent // size for i in range(size))
        for extent, size in zip(extents, op.size, strict=True)
    ]
    taps = _taps(spans)

    def bounds(index: Sequence[Expr]) -> list[tuple[Expr, Expr]]:
        rows = zip(split_index(index, op.channels_last)[2], extents, op.size, strict=True)
        return [_bounds(place, extent, size) for place, extent, size in rows]

    def total(*index: Expr) -> Expr:
        batch, channel, _ = split_index(index, op.channels_last)
        ends = bounds(index)
        places = [start + tap.var for (start, _), tap in zip(ends, taps, strict=True)]
        ragged = [
            place < end
            for place, (_, end), extent, size in zip(places, ends, extents, op.size, strict=True)
            if extent % size
        ]
        item = read(*image_index(batch, channel, places, op.channels_last))
        inside = guard(tirx.all(*ragged), item, const(0.0, dtype)) if ragged else item
        return te.sum(inside, axis=taps)

    sums = te.compute(result.shape, total, name="adaptive_avg_pool_sum")

    def element(*index: Expr) -> Expr:
        count: Expr = i32(1)
        for start, end in bounds(index):
            count = count * (end - start)
        return sums(*index) / cast(count, dtype)

    return [compute("adaptive_avg_pool", result, element)]


def _bounds(place: Expr, extent: int, size: int) -> tuple[Expr, Expr]:
    """Window [floor(i * extent / size), ceil((i + 1) * extent / size))."""
    if extent % size == 0:
        width = i32(extent // size)
        return place * width, place * width + width
    start = tirx.indexdiv(place * i32(extent), i32(size))
    end = tirx.indexdiv((place + i32(1)) * i32(extent) + i32(size - 1), i32(size))
    return start, end


LOWER: Mapping[type[Op], Lowering] = {
    MaxPool: _max_pool,
    MaxPoolIndices: _max_pool_indices,
    AvgPool: _avg_pool,
    AdaptiveAvgPool: _adaptive,
}
