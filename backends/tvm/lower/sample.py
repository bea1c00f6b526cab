"""grid_sample: reading an image at coordinates that another tensor holds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tvm import te, tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.element import (
    Read,
    choose,
    compute,
    const,
    guard,
    i32,
    reader,
    wide,
)
from optc.ir.dtype import DType
from optc.ir.ops import Border, GridSample, Interpolation
from optc.ir.types import TensorType

_CUBIC = -0.75  # torch's parameter of cubic convolution (Keys 1981)


def grid_sample(
    op: GridSample, tensors: Sequence[te.Tensor], types: Sequence[TensorType]
) -> Sequence[te.Tensor]:
    """Coordinates -1 and 1 are the image's edges, or its corner pixels' centres (align_corners)."""
    (x, grid), (result,), dtype = types, op.infer(*types), wide(types[0].dtype)
    image, points = reader(tensors[0], x), reader(tensors[1], grid)
    height, width = x.shape[2:]

    def position(axis: int, extent: int, *index: Expr) -> Expr:
        batch, _, row, column = index
        point = points(batch, row, column, i32(axis))
        inside = _unnormalised(op, point, extent, dtype)
        # Cubic taps fold one by one instead.
        folds = op.mode is not Interpolation.CUBIC
        return _folded(op, inside, extent, dtype) if folds else inside

    # Stages of their own: an output reads each coordinate for every tap and channel.
    shape = (x.shape[0], 1, *grid.shape[1:3])
    columns = te.compute(shape, lambda *i: position(0, width, *i), name="grid_column")
    rows = te.compute(shape, lambda *i: position(1, height, *i), name="grid_row")

    def element(*index: Expr) -> Expr:
        batch, channel, row, column = index
        place = (batch, i32(0), row, column)
        axes = [
            _taps(op, rows(*place), height, dtype),
            _taps(op, columns(*place), width, dtype),
        ]
        terms: list[Expr] = []
        for (y, down), (z, across) in itertools.product(*axes):
            item = _pixel(
                lambda a, b: image(batch, channel, a, b), op, y, z, (height, width), dtype
            )
            for weight in (down, across):
                item = item if weight is None else item * weight
            terms.append(item)
        return sum(terms[1:], terms[0])

    return [compute("grid_sample", result, element)]


def cubic_weights(part: Expr, dtype: DType) -> list[Expr]:
    """Weights of the four pixels around a point `part` past the second (Keys 1981)."""
    one, two = const(1.0, dtype), const(2.0, dtype)
    return [
        _outer(part + one, dtype),
        _inner(part, dtype),
        _inner(one - part, dtype),
        _outer(two - part, dtype),
    ]


def _inner(t: Expr, dtype: DType) -> Expr:
    a, b = const(_CUBIC + 2.0, dtype), const(_CUBIC + 3.0, dtype)
    return (a * t - b) * t * t + const(1.0, dtype)


def _outer(t: Expr, dtype: DType) -> Expr:
    a, five = const(_CUBIC, dtype), const(5.0 * _CUBIC, dtype)
    eight, four = const(8.0 * _CUBIC, dtype), const(4.0 * _CUBIC, dtype)
    return ((a * t - five) * t + eight) * t - four


def _unnormalised(op: GridSample, point: Expr, extent: int, dtype: DType) -> Expr:
    one, half = const(1.0, dtype), const(0.5, dtype)
    if op.align_corners:
        return (point + one) * half * const(float(extent - 1), dtype)
    return ((point + one) * const(float(extent), dtype) - one) * half


def _folded(op: GridSample, place: Expr, extent: int, dtype: DType) -> Expr:
    """The coordinate after the border rule; far away ones come near, so that they fit an int32."""
    low, high = const(0.0, dtype), const(float(extent - 1), dtype)
    if op.border is Border.ZEROS:
        return _limit(place, const(-2.0, dtype), const(float(extent + 1), dtype))
    if op.border is Border.REFLECTION:
        place = _reflected(op, place, extent, dtype)
    return _limit(place, low, high)


def _limit(place: Expr, low: Expr, high: Expr) -> Expr:
    """Clamp; nan becomes `low`."""
    above = choose(place > low, place, low)
    return choose(above < high, above, high)


def _reflected(op: GridSample, place: Expr, extent: int, dtype: DType) -> Expr:
    """The coordinate mirrored at the edges as often as needed."""
    twice_low, twice_high = (0, 2 * (extent - 1)) if op.align_corners else (-1, 2 * extent - 1)
    if twice_low == twice_high:
        return const(0.0, dtype)
    low = const(twice_low / 2, dtype)
    span = const((twice_high - twice_low) / 2, dtype)
    far = tirx.abs(place - low)
    flips = tirx.floor(far / span)
    rest = far - flips * span
    even = tirx.floor(flips / const(2.0, dtype)) * const(2.0, dtype) == flips
    return choose(even, rest + low, span - rest + low)


Tap = tuple[Expr, Expr | None]


def _taps(op: GridSample, position: Expr, extent: int, dtype: DType) -> list[Tap]:
    """The pixels along one axis that a point reads, as whole floats, and their weights."""
    if op.mode is Interpolation.NEAREST:
        return [(tirx.nearbyint(position), None)]
    base, one = tirx.floor(position), const(1.0, dtype)
    if op.mode is Interpolation.LINEAR:
        part = position - base
        return [(base, one - part), (base + one, part)]
    weights = cubic_weights(position - base, dtype)
    taps = [base + const(float(offset), dtype) for offset in (-1, 0, 1, 2)]
    return [
        (_folded(op, tap, extent, dtype), weight) for tap, weight in zip(taps, weights, strict=True)
    ]


def _pixel(
    read: Read, op: GridSample, row: Expr, column: Expr, extents: tuple[int, int], dtype: DType
) -> Expr:
    """A pixel, 0 outside the image."""
    conditions: list[Expr] = []
    places: list[Expr] = []
    for place, extent in zip((row, column), extents, strict=True):
        whole = i32(place)
        places.append(whole)
        if op.border is Border.ZEROS or op.mode is Interpolation.LINEAR:
            conditions += [whole >= i32(0), whole < i32(extent)]
    item = read(*places)
    return guard(tirx.all(*conditions), item, const(0.0, dtype)) if conditions else item
