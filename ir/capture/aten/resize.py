"""ATen rules: resampling of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, require
from optc.ir.graph import Value
from optc.ir.ops import Border, GridSample, Interpolation, Resize

aten = torch.ops.aten
Factors = Sequence[float | None] | None


def _resize(
    ctx: Context,
    x: Value,
    mode: Interpolation,
    size: Sequence[int] | None,
    align: bool,
    factors: Sequence[float | None] | None,
) -> Value:
    extents = x.shape[2:]
    given = list(factors) if factors else [None] * len(extents)
    wanted = (
        list(size)
        if size is not None
        else [int(n * float(f or 1)) for n, f in zip(extents, given, strict=True)]
    )
    scales = tuple(
        1.0 / factor if factor else extent / target
        for factor, extent, target in zip(given, extents, wanted, strict=True)
    )
    return ctx.emit(Resize(tuple(wanted), scales, mode, align), x)


def by_vector(mode: Interpolation) -> Callable[..., Value]:
    """The overload with a size or a list of factors."""

    def run(ctx: Context, x: Value, size: Sequence[int] | None, *rest: Any) -> Value:
        *align, factors = rest
        return _resize(ctx, x, mode, size, bool(align and align[0]), factors)

    return run


def by_scales(mode: Interpolation) -> Callable[..., Value]:
    """The overload with a size and one factor per axis, each of which may be missing."""

    def run(ctx: Context, x: Value, size: Sequence[int], *rest: Any) -> Value:
        options = list(rest)
        align = bool(options.pop(0)) if mode is not Interpolation.NEAREST and options else False
        options += [None] * (len(size) - len(options))
        return _resize(ctx, x, mode, size, align, options)

    return run


def grid_sampler(
    ctx: Context, x: Value, grid: Value, mode: int, border: int, align_corners: bool
) -> Value:
    """Values at places of an image that a tensor names."""
    require(x.type.rank == 4, "grid_sample of volumes is not supported")
    modes = (Interpolation.LINEAR, Interpolation.NEAREST, Interpolation.CUBIC)
    borders = (Border.ZEROS, Border.BORDER, Border.REFLECTION)
    return ctx.emit(GridSample(modes[mode], borders[border], align_corners), x, grid)


_PACKETS = {
    "upsample_nearest1d": Interpolation.NEAREST,
    "upsample_nearest2d": Interpolation.NEAREST,
    "upsample_nearest3d": Interpolation.NEAREST,
    "upsample_linear1d": Interpolation.LINEAR,
    "upsample_bilinear2d": Interpolation.LINEAR,
    "upsample_trilinear3d": Interpolation.LINEAR,
    "upsample_bicubic2d": Interpolation.CUBIC,
}
RULES: Mapping[OpOverload, Callable[..., Any]] = {
    **{getattr(aten, name).vec: by_vector(mode) for name, mode in _PACKETS.items()},
    **{getattr(aten, name).default: by_scales(mode) for name, mode in _PACKETS.items()},
    aten.grid_sampler_2d.default: grid_sampler,
}
