"""grid_sample: reading an image at coordinates that another tensor holds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tvm import te, tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.element import (
    Read,
    choose,
    clamp_index,
    compute,
    const,
    exact,
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
    """Coordinates -1 and 1 are the image's edges, or its corner pixels' centres (align_corners).

    Which pixels a point reads is the same for all channels: that is computed in stages before.
    """
    (x, grid), (result,), dtype = types, op.infer(*types), wide(types[0].dtype)
    image, points = reader(tensors[0], x), reader(tensors[1], grid)
    shape, extents = grid.shape[:3], x.shape[2:]
    axes = [
        _axis(op, name, shape, extents[axis], dtype, lambda *at, a=axis: points(*at, i32(1 - a)))
        for axis, name in enumerate(("row", "column"))
    ]

    def element(*index: Expr) -> Expr:
        batch, channel, *place = index
        terms: list[Expr] = []
        for taps in itertools.product(*axes):
            pixel = [place_of(batch, *place) for place_of, _ in taps]
            item = _pixel(lambda y, z: image(batch, channel, y, z), op, pixel, extents, dtype)
            for _, weight in taps:
                item = item if weight is None else item * weight(batch, *place)
            terms.append(item)
        return sum(terms[1:], terms[0])

    return [compute("grid_sample", result, element)]


def _axis(
    op: GridSample, name: str, shape: Sequence[int], extent: int, dtype: DType, point: Read
) -> list[tuple[Read, Read | None]]:
    """Places along one axis that each point reads, as int32, and their weights (None: 1)."""

    def position(*index: Expr) -> Expr:
        place = _unnormalised(op, point(*index), extent, dtype)
        # Cubic taps fold one by one instead.
        folds = op.mode is not Interpolation.CUBIC
        return _folded(op, place, extent, dtype) if folds else place

    positions = te.compute(tuple(shape), lambda *index: position(*index), name=f"grid_{name}")

    def stage(tap: int, part: int) -> Read:
        def value(*index: Expr) -> Expr:
            place, weight = _taps(op, positions(*index), extent, dtype)[tap]
            return i32(place) if part == 0 or weight is None else weight

        label = f"grid_{name}_{'weight' if part else 'place'}{tap}"
        return exact(te.compute(tuple(shape), value, name=label))

    weighted = op.mode is not Interpolation.NEAREST
    return [(stage(k, 0), stage(k, 1) if weighted else None) for k in range(_TAPS[op.mode])]


_TAPS = {Interpolation.NEAREST: 1, Interpolation.LINEAR: 2, Interpolation.CUBIC: 4}


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
    read: Read, op: GridSample, pixel: Sequence[Expr], extents: Sequence[int], dtype: DType
) -> Expr:
    """A pixel, 0 outside the image; read at the nearest one there, so that no load branches."""
    inside: list[Expr] = []
    places: list[Expr] = []
    for place, extent in zip(pixel, extents, strict=True):
        if op.border is Border.ZEROS or op.mode is Interpolation.LINEAR:
            inside += [place >= i32(0), place < i32(extent)]
        places.append(clamp_index(place, extent))
    item = read(*places)
    return choose(tirx.all(*inside), item, const(0.0, dtype)) if inside else item
