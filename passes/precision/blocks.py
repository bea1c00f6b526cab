"""Scales of blocks of a weight: each the one with the least squared error.

It matters at four bits (cf. Banner et al. 2019); at eight the largest magnitude is as good.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optc.ir.dtype import DType
from optc.ir.ops.quantization import limits
from optc.passes.precision.affine import largest, spread, step

_SHARES = np.linspace(1.0, 0.6, 17)  # of a block's largest magnitude, that its integers may reach


def best_scale(
    array: NDArray[np.float64], shape: tuple[int, ...], dtype: DType
) -> NDArray[np.float32]:
    """The scale of each block with the least squared error, from the largest magnitude down."""
    most = limits(dtype)[1]
    whole = largest(array, shape) / most
    best = step(np.where(whole > 0, whole, 1.0))
    if dtype is not DType.I4:
        return best
    least = _error(array, best, shape, most)
    for share in _SHARES[1:]:
        tried = step(np.where(whole > 0, share * whole, 1.0))
        error = _error(array, tried, shape, most)
        best, least = np.where(error < least, tried, best), np.minimum(error, least)
    return best


def _error(
    array: NDArray[np.float64], scale: NDArray[np.float32], shape: tuple[int, ...], most: int
) -> NDArray[np.float64]:
    """The squared error of each block."""
    full = spread(scale.astype(np.float64), array.shape)
    lost = (np.clip(np.rint(array / full), -most, most) * full - array) ** 2
    split: list[int] = []
    for extent, entries in zip(array.shape, shape, strict=True):
        split += [entries, extent // entries]
    axes = tuple(range(1, 2 * len(shape), 2))
    total: NDArray[np.float64] = lost.reshape(split).sum(axis=axes)
    return total
