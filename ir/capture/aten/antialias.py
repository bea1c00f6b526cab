"""ATen rules: resampling of images through a filter as wide as an output pixel.

`antialias=True` means, as in Pillow, that an output pixel is a weighted mean of all input pixels
that it covers. Weights depend on extents alone, so each axis is a product with a constant matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch._ops import OpOverload

from optc.ir.capture.context import Context
from optc.ir.capture.dtypes import TO_TORCH
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Linear, MatMul

aten = torch.ops.aten
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Filter:
    """A function of the distance in pixels, zero from `reach` on."""

    reach: float
    weight: Callable[[Array], Array]


def _triangle(x: Array) -> Array:
    return np.where(np.abs(x) < 1, 1 - np.abs(x), 0.0)


def _cubic(x: Array) -> Array:
    """Keys (1981) with a = -1/2, which Pillow takes; without antialiasing torch takes -3/4."""
    x, a = np.abs(x), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: Array) -> Array:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


_FILTERS = {
    "_upsample_bilinear2d_aa": Filter(1, _triangle),
    "_upsample_bicubic2d_aa": Filter(2, _cubic),
    "_upsample_lanczos2d_aa": Filter(3, _lanczos),
}


def weights(filter: Filter, extent: int, target: int, scale: float) -> Array:
    """[target, extent]: how much each input pixel is in each output pixel.

    `scale` is input pixels per output pixel; an enlarged image is filtered in input pixels.
    """
    wide = max(scale, 1.0)
    found = np.zeros((target, extent))
    for row in range(target):
        centre = scale * (row + 0.5)
        first = max(floor(centre - filter.reach * wide + 0.5), 0)
        last = min(floor(centre + filter.reach * wide + 0.5), extent)
        places = np.arange(first, last, dtype=np.float64)
        found[row, first:last] = filter.weight((places - centre + 0.5) / wide)
    found /= found.sum(axis=1, keepdims=True)
    return found


def _scale(extent: int, target: int, align: bool, factor: float | None) -> float:
    if align:
        return (extent - 1) / (target - 1) if target > 1 else 0.0
    return 1 / factor if factor else extent / target


def _resampled(
    ctx: Context,
    x: Value,
    filter: Filter,
    size: Sequence[int],
    align: bool,
    factors: Sequence[float | None],
) -> Value:
    """Columns first, then rows; halves are added up in f32."""
    kind = DType.F64 if x.type.dtype is DType.F64 else DType.F32
    result = ctx.cast(x, kind)
    for axis in (3, 2):
        extent, target = x.shape[axis], size[axis - 2]
        scale = _scale(extent, target, align, factors[axis - 2])
        if extent == target and scale == 1:
            continue
        table = torch.from_numpy(weights(filter, extent, target, scale)).to(TO_TORCH[kind])
        matrix = ctx.constant(table)
        last = axis == 3
        result = ctx.emit(Linear(), result, matrix) if last else ctx.emit(MatMul(), matrix, result)
    return ctx.cast(result, x.type.dtype)


def by_vector(filter: Filter) -> Callable[..., Value]:
    """The overload with a size or a list of factors."""

    def run(
        ctx: Context,
        x: Value,
        size: Sequence[int] | None,
        align: bool,
        factors: Sequence[float] | None,
    ) -> Value:
        given: Sequence[float | None] = factors or (None, None)
        wanted = ctx.shape()[2:] if size is None else size
        return _resampled(ctx, x, filter, wanted, align, given)

    return run


def by_scales(filter: Filter) -> Callable[..., Value]:
    """The overload with a size and one factor per axis, each of which may be missing."""

    def run(
        ctx: Context,
        x: Value,
        size: Sequence[int],
        align: bool,
        rows: float | None = None,
        columns: float | None = None,
    ) -> Value:
        return _resampled(ctx, x, filter, size, align, (rows, columns))

    return run


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    **{getattr(aten, name).vec: by_vector(item) for name, item in _FILTERS.items()},
    **{getattr(aten, name).default: by_scales(item) for name, item in _FILTERS.items()},
}
