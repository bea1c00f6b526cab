"""Instances of ops on images: convolutions, pools, resampling, norms over channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.ir.ops import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Border,
    Conv,
    ConvTranspose,
    GridSample,
    GroupNorm,
    Interpolation,
    MaxPool,
    MaxPoolIndices,
    Op,
    Resize,
)
from optc.ir.types import TensorType
from tests.strategies.quantized import sometimes_bytes
from tests.strategies.shapes import FLOATS, dtypes
from tests.strategies.values import Normal, Uniform, Values

Parts = tuple[Op, list[TensorType], list[Values]]

_CHANNELS = st.sampled_from((1, 2, 3, 4, 6, 17))
_SIDES = st.sampled_from((3, 4, 5, 7, 9))


def image(draw: DrawFn, rank: int, channels: int, last: bool) -> TensorType:
    """N in (1, 2), the given channels, and `rank` spatial axes."""
    sides = tuple(draw(_SIDES) for _ in range(rank))
    tail = (*sides, channels) if last else (channels, *sides)
    return TensorType((draw(st.integers(1, 2)), *tail), draw(dtypes(FLOATS)))


def _many(draw: DrawFn, rank: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(draw(st.integers(low, high)) for _ in range(rank))


def _pairs(draw: DrawFn, rank: int, most: int) -> tuple[tuple[int, int], ...]:
    whole = st.tuples(st.integers(0, most), st.integers(0, most))
    return tuple(draw(whole) for _ in range(rank))


def _conv(draw: DrawFn, kind: type[Op]) -> Parts:
    rank, last, groups = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.integers(1, 3))
    inner, outer = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    x = image(draw, rank, inner * groups, last)
    kernel, stride = _many(draw, rank, 1, 3), _many(draw, rank, 1, 3)
    padding, dilation = _pairs(draw, rank, 2), _many(draw, rank, 1, 2)
    if kind is Conv:
        op: Op = Conv(stride, padding, dilation, groups, last)
        weight = (outer * groups, inner, *kernel)
    else:
        extra = tuple(draw(st.integers(0, s - 1)) for s in stride)
        op = ConvTranspose(stride, padding, extra, dilation, groups, last)
        weight = (inner * groups, outer, *kernel)
    types = [x, x.with_shape(weight)]
    types += [x.with_shape((outer * groups,))] if draw(st.booleans()) else []
    return op, types, [Normal(1.0)] * len(types)


def _pool(draw: DrawFn, kind: type[Op]) -> Parts:
    rank, last = draw(st.integers(1, 3)), draw(st.booleans())
    x = image(draw, rank, draw(_CHANNELS), last)
    kernel = _many(draw, rank, 2, 3)
    # A window never lies outside alone: padding is below the kernel.
    padding = tuple(tuple(draw(st.integers(0, k - 1)) for _ in "ab") for k in kernel)
    dilation = (1,) * rank if any(map(any, padding)) else _many(draw, rank, 1, 2)
    common = (kernel, _many(draw, rank, 1, 3), padding, dilation, last)
    if kind is not AvgPool:
        return kind(*common), [x], [Normal(special=draw(st.booleans()))]  # type: ignore[call-arg]
    counted = draw(st.sampled_from((padding, ((0, 0),) * rank)))
    return AvgPool(*common, counted, draw(st.sampled_from((None, 3)))), [x], [Normal()]


def _adaptive(draw: DrawFn, _: type[Op]) -> Parts:
    rank, last = draw(st.integers(1, 3)), draw(st.booleans())
    x = image(draw, rank, draw(_CHANNELS), last)
    return AdaptiveAvgPool(_many(draw, rank, 1, 5), last), [x], [Normal()]


def _resize(draw: DrawFn, _: type[Op]) -> Parts:
    mode, last = draw(st.sampled_from(Interpolation)), draw(st.booleans())
    rank = 2 if mode is Interpolation.CUBIC else draw(st.integers(1, 3))
    x = image(draw, rank, draw(_CHANNELS), last)
    sides = x.shape[1:-1] if last else x.shape[2:]
    size = tuple(draw(st.sampled_from((1, 2, s, 2 * s, s + 3))) for s in sides)
    scales = tuple(
        draw(st.sampled_from((side / new, 1 / 1.7))) for side, new in zip(sides, size, strict=True)
    )
    align = mode is not Interpolation.NEAREST and draw(st.booleans())
    return Resize(size, scales, mode, align, last), [x], [Normal(1.0)]


def _grid_sample(draw: DrawFn, _: type[Op]) -> Parts:
    x = image(draw, 2, draw(_CHANNELS), False)
    grid = x.with_shape((x.shape[0], draw(_SIDES), draw(_SIDES), 2))
    mode, border = draw(st.sampled_from(Interpolation)), draw(st.sampled_from(Border))
    op = GridSample(mode, border, draw(st.booleans()))
    return op, [x, grid], [Normal(1.0), Uniform(-1.6, 1.6)]


def _batch_norm(draw: DrawFn, _: type[Op]) -> Parts:
    channels, last = draw(_CHANNELS), draw(st.booleans())
    x = image(draw, draw(st.integers(0, 3)), channels, last)
    values: list[Values] = [Normal(), Normal(), Uniform(0.2, 3.0), Normal(), Normal()]
    return BatchNorm(1e-3, last), [x, *[x.with_shape((channels,))] * 4], values


def _group_norm(draw: DrawFn, _: type[Op]) -> Parts:
    groups, width, last = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.booleans())
    x = image(draw, draw(st.integers(1, 3)), groups * width, last)
    affine = [x.with_shape((groups * width,))] * draw(st.sampled_from((0, 2)))
    return GroupNorm(groups, 0.1, last), [x, *affine], [Normal(1.0)] * (1 + len(affine))


MAKERS: Mapping[type[Op], Callable[[DrawFn, type[Op]], Parts]] = {
    Conv: sometimes_bytes(_conv),
    ConvTranspose: sometimes_bytes(_conv),
    **dict.fromkeys((MaxPool, MaxPoolIndices, AvgPool), _pool),
    AdaptiveAvgPool: _adaptive,
    Resize: _resize,
    GridSample: _grid_sample,
    BatchNorm: _batch_norm,
    GroupNorm: _group_norm,
}
