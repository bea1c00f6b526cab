"""Reading images between their pixels, with torch's coordinates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.contraction import image_index, split_index, split_shape
from optc.backends.tvm.lower.element import (
    Lowering,
    cast,
    compute,
    const,
    exact,
    i32,
    move,
    quotient,
    reader,
    wide,
)
from optc.backends.tvm.lower.sample import cubic_weights, grid_sample
from optc.ir.dtype import DType
from optc.ir.ops import GridSample, Interpolation, Op, Resize
from optc.ir.types import TensorType

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]
Tap = tuple[Expr, Expr | None]  # a place along one axis, and its weight (None: 1)


def _resize(op: Resize, tensors: Tensors, types: Types) -> Tensors:
    (x,), (result,) = types, op.infer(*types)
    extents = split_shape(x.shape, op.channels_last)[2]
    if op.mode is Interpolation.NEAREST:
        return [_nearest(op, tensors[0], extents, result)]
    read, dtype = reader(tensors[0], x), wide(x.dtype)

    def element(*index: Expr) -> Expr:
        batch, channel, spatial = split_index(index, op.channels_last)
        axes = [_taps(op, axis, place, extents[axis], dtype) for axis, place in enumerate(spatial)]
        terms: list[Expr] = []
        for taps in itertools.product(*axes):
            item = read(*image_index(batch, channel, [p for p, _ in taps], op.channels_last))
            for _, weight in taps:
                item = item if weight is None else item * weight
            terms.append(item)
        return sum(terms[1:], terms[0])

    return [compute("resize", result, element)]


def _nearest(op: Resize, x: te.Tensor, extents: Sequence[int], result: TensorType) -> te.Tensor:
    read = exact(x)

    def element(*index: Expr) -> Expr:
        batch, channel, spatial = split_index(index, op.channels_last)
        rows = zip(spatial, op.scales, extents, op.size, strict=True)
        places = [_floor_place(*row) for row in rows]
        return read(*image_index(batch, channel, places, op.channels_last))

    return move("resize", result.shape, element)


def _floor_place(place: Expr, scale: float, extent: int, size: int) -> Expr:
    """min(floor(place * scale), extent - 1) in f32; whole factors need no floats."""
    every = np.arange(size)
    wanted = np.minimum(np.floor(every.astype(np.float32) * np.float32(scale)), extent - 1)
    if size and size % max(extent, 1) == 0 and np.array_equal(wanted, every // (size // extent)):
        return quotient(place, size // extent, size)
    if size and extent % size == 0 and np.array_equal(wanted, every * (extent // size)):
        return place * i32(extent // size)
    position = tirx.floor(cast(place, DType.F32) * const(scale, DType.F32))
    return tirx.min(i32(position), i32(extent - 1))


def _taps(op: Resize, axis: int, place: Expr, extent: int, dtype: DType) -> list[Tap]:
    """The places that an output along one axis reads, with their weights."""
    size = op.size[axis]
    if extent == size and (op.align_corners or op.scales[axis] == 1.0):
        return [(place, None)]
    position = _position(op, axis, place, extent, dtype)
    if op.mode is Interpolation.CUBIC:
        base = tirx.floor(position)
        weights = cubic_weights(position - base, dtype)
        first, last = i32(base) - i32(1), i32(extent - 1)
        places = [tirx.max(tirx.min(first + i32(tap), last), i32(0)) for tap in range(4)]
        return list(zip(places, weights, strict=True))
    zero = const(0.0, dtype)
    position = tirx.Select(position < zero, zero, position)
    left = tirx.min(i32(position), i32(extent - 1))
    part = position - cast(left, dtype)
    right = tirx.min(left + i32(1), i32(extent - 1))
    return [(left, const(1.0, dtype) - part), (right, part)]


def _position(op: Resize, axis: int, place: Expr, extent: int, dtype: DType) -> Expr:
    """Where between the input's pixels an output pixel lies."""
    size, number = op.size[axis], cast(place, dtype)
    if op.align_corners:
        scale = (extent - 1) / (size - 1) if size > 1 else 0.0
        return number * const(scale, dtype)
    half = const(0.5, dtype)
    return (number + half) * const(op.scales[axis], dtype) - half


LOWER: Mapping[type[Op], Lowering] = {Resize: _resize, GridSample: grid_sample}
