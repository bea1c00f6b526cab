"""What pools and image resampling mean, as torch functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from optc.backends.reference.dtypes import Meaning, widened
from optc.backends.reference.meaning_contraction import channels_first, widths
from optc.ir.ops import (
    AdaptiveAvgPool,
    AvgPool,
    GridSample,
    Interpolation,
    MaxPool,
    MaxPoolIndices,
    Op,
    Resize,
)

_MAX_POOL: Mapping[int, Any] = {
    1: torch.nn.functional.max_pool1d,
    2: torch.nn.functional.max_pool2d,
    3: torch.nn.functional.max_pool3d,
}
_ADAPTIVE: Mapping[int, Any] = {
    1: torch.nn.functional.adaptive_avg_pool1d,
    2: torch.nn.functional.adaptive_avg_pool2d,
    3: torch.nn.functional.adaptive_avg_pool3d,
}


def _max_pool(op: MaxPool, x: Tensor) -> Tensor:
    return _max_pool_indices(op, x)[0]


def _max_pool_indices(op: MaxPool | MaxPoolIndices, x: Tensor) -> tuple[Tensor, Tensor]:
    if not x.is_floating_point():
        values, places = _max_pool_indices(op, x.double())
        return values.to(x.dtype), places
    lows = [low for low, _ in op.padding]
    padded = torch.constant_pad_nd(x, widths(op.padding), float("-inf"))
    pool = _MAX_POOL[len(op.kernel)]
    values, places = pool(padded, op.kernel, op.stride, 0, op.dilation, return_indices=True)
    return values, _unpadded(places, padded.shape[2:], x.shape[2:], lows)


def _unpadded(places: Tensor, padded: torch.Size, extents: torch.Size, lows: list[int]) -> Tensor:
    """Flat places in the padded extent as flat places in the extent without padding."""
    result, rest = torch.zeros_like(places), places
    for axis, low in enumerate(lows):
        stride = math.prod(padded[axis + 1 :])
        # A window of -inf alone may name a padded element; the nearest real one stands for it.
        place = (rest // stride - low).clamp(0, extents[axis] - 1)
        result, rest = result * extents[axis] + place, rest % stride
    return result


def _max_pool_with_places(op: MaxPoolIndices, x: Tensor) -> tuple[Tensor, Tensor]:
    if not op.channels_last:
        return _max_pool_indices(op, x)
    values, places = _max_pool_indices(op, x.movedim(-1, 1))
    return values.movedim(1, -1), places.movedim(1, -1)


def _avg_pool(op: AvgPool, x: Tensor) -> Tensor:
    rank = len(op.kernel)
    kernel, padding = zip(*(_trimmed(op, a, x.shape[2 + a]) for a in range(rank)), strict=True)
    planes = torch.constant_pad_nd(x, widths(padding)).flatten(0, 1).unsqueeze(1)
    ones, zeros = x.new_ones((1, 1, *kernel)), [0] * rank
    # torch has no dilated average; a convolution with ones sums any window.
    total = torch.convolution(planes, ones, None, op.stride, zeros, op.dilation, False, zeros, 1)
    total = total.reshape(*x.shape[:2], *total.shape[2:])
    if op.divisor is not None:
        return total / op.divisor
    counts = torch.ones((), dtype=x.dtype)
    for axis in range(rank):
        counts = counts.unsqueeze(-1) * _counts(op, axis, x.shape[2 + axis], total.shape[2 + axis])
    return total / counts


def _trimmed(op: AvgPool, axis: int, extent: int) -> tuple[int, tuple[int, int]]:
    """Kernel and padding along an axis; a lone window over everything takes what is there.

    Models write kernels far larger than their input for "all of it", and padding is memory here.
    """
    (low, high), kernel = op.padding[axis], op.kernel[axis]
    lone = low + extent + high - kernel < op.stride[axis]
    whole = op.dilation[axis] == 1 and low + extent <= kernel
    return (extent, (0, 0)) if lone and whole and extent else (kernel, (low, high))


def _counts(op: AvgPool, axis: int, extent: int, outputs: int) -> Tensor:
    """How many elements of each window along one axis are counted."""
    low, high = op.counted[axis]
    start = torch.arange(outputs) * op.stride[axis] - op.padding[axis][0]
    place = start[:, None] + torch.arange(op.kernel[axis]) * op.dilation[axis]
    return ((place >= -low) & (place < extent + high)).sum(1)


def _adaptive(op: AdaptiveAvgPool, x: Tensor) -> Tensor:
    y: Tensor = _ADAPTIVE[len(op.size)](x, op.size)
    return y


_RESIZE: Mapping[tuple[Interpolation, int], Any] = {
    (Interpolation.NEAREST, 1): torch.ops.aten.upsample_nearest1d,
    (Interpolation.NEAREST, 2): torch.ops.aten.upsample_nearest2d,
    (Interpolation.NEAREST, 3): torch.ops.aten.upsample_nearest3d,
    (Interpolation.LINEAR, 1): torch.ops.aten.upsample_linear1d,
    (Interpolation.LINEAR, 2): torch.ops.aten.upsample_bilinear2d,
    (Interpolation.LINEAR, 3): torch.ops.aten.upsample_trilinear3d,
    (Interpolation.CUBIC, 2): torch.ops.aten.upsample_bicubic2d,
}


def _resize(op: Resize, x: Tensor) -> Tensor:
    if not x.is_floating_point():  # nearest: torch's own takes few integers
        return _resize(op, x.double()).to(x.dtype)
    # torch divides by the factor it is given: none where the extents say the same, for exactness.
    factors = [
        None if scale == extent / size else 1.0 / scale
        for scale, extent, size in zip(op.scales, x.shape[2:], op.size, strict=True)
    ]
    align = () if op.mode is Interpolation.NEAREST else (op.align_corners,)
    y: Tensor = _RESIZE[op.mode, len(op.size)](x, list(op.size), *align, *factors)
    return y


_GRID_MODE = {
    Interpolation.NEAREST: "nearest",
    Interpolation.LINEAR: "bilinear",
    Interpolation.CUBIC: "bicubic",
}


def _grid_sample(op: GridSample, x: Tensor, grid: Tensor) -> Tensor:
    return torch.nn.functional.grid_sample(
        x, grid, _GRID_MODE[op.mode], op.border.value, op.align_corners
    )


MEANING: Mapping[type[Op], Meaning] = {
    MaxPool: widened(channels_first(_max_pool)),
    MaxPoolIndices: widened(_max_pool_with_places),
    AvgPool: widened(channels_first(_avg_pool)),
    AdaptiveAvgPool: widened(channels_first(_adaptive)),
    Resize: widened(channels_first(_resize)),
    GridSample: widened(_grid_sample),
}
