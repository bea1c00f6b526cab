"""ATen rules: discrete Fourier transforms as products with constant matrices.

X[k] = sum_t x[t] exp(-2 pi i k t / n); a product of n x n costs more than an FFT of a long signal
and less than the overhead of one for the lengths that models use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Complex, Context, axis_of
from optc.ir.capture.dtypes import TO_TORCH
from optc.ir.graph import Value
from optc.ir.ops import Linear, ew

aten = torch.ops.aten


def _angles(rows: int, columns: int, n: int) -> np.ndarray:
    """2 pi r c / n, reduced before it is rounded."""
    return 2 * np.pi * (np.outer(np.arange(rows), np.arange(columns)) % n) / n


def _matrix(ctx: Context, content: np.ndarray, like: Value) -> Value:
    dtype = TO_TORCH[like.type.dtype]
    return ctx.constant(torch.from_numpy(np.ascontiguousarray(content)).to(dtype))


def _apply(ctx: Context, x: Value, axis: int, matrix: Value) -> Value:
    """Multiply an axis of x by a matrix [outputs, inputs]."""
    last = x.type.rank - 1
    return ctx.move_axis(ctx.emit(Linear(), ctx.move_axis(x, axis, last), matrix), last, axis)


def _scale(count: int, normalization: int) -> float:
    return {0: 1.0, 1: 1.0 / math.sqrt(count), 2: 1.0 / count}[normalization]


def _transform(ctx: Context, x: Complex, axis: int, forward: bool, scale: float) -> Complex:
    n = x.re.shape[axis]
    angles = _angles(n, n, n)
    cosine = _matrix(ctx, scale * np.cos(angles), x.re)
    sine = _matrix(ctx, (scale if forward else -scale) * np.sin(angles), x.re)
    re = ctx.emit(ew.Add(), _apply(ctx, x.re, axis, cosine), _apply(ctx, x.im, axis, sine))
    im = ctx.emit(ew.Sub(), _apply(ctx, x.im, axis, cosine), _apply(ctx, x.re, axis, sine))
    return Complex(re, im)


def real_to_complex(
    ctx: Context, x: Value, dim: Sequence[int], normalization: int, onesided: bool
) -> Complex:
    """_fft_r2c: the last listed axis is halved when `onesided`."""
    axes = [axis_of(axis, x.type.rank) for axis in dim]
    scale = _scale(math.prod(x.shape[axis] for axis in axes), normalization)
    last = axes[-1]
    n = x.shape[last]
    angles = _angles(n // 2 + 1 if onesided else n, n, n)
    result = Complex(
        _apply(ctx, x, last, _matrix(ctx, scale * np.cos(angles), x)),
        _apply(ctx, x, last, _matrix(ctx, -scale * np.sin(angles), x)),
    )
    for axis in axes[:-1]:
        result = _transform(ctx, result, axis, forward=True, scale=1.0)
    return result


def complex_to_complex(
    ctx: Context, x: Complex | Value, dim: Sequence[int], normalization: int, forward: bool
) -> Complex:
    """_fft_c2c."""
    signal = x if isinstance(x, Complex) else Complex(x, ctx.zeros_like(x))
    axes = [axis_of(axis, signal.re.type.rank) for axis in dim]
    scale = _scale(math.prod(signal.re.shape[axis] for axis in axes), normalization)
    for place, axis in enumerate(axes):
        signal = _transform(ctx, signal, axis, forward, scale if place == 0 else 1.0)
    return signal


def complex_to_real(
    ctx: Context, x: Complex, dim: Sequence[int], normalization: int, last_dim_size: int
) -> Value:
    """_fft_c2r: backward, from half a spectrum along the last listed axis."""
    axes = [axis_of(axis, x.re.type.rank) for axis in dim]
    last, n = axes[-1], last_dim_size
    count = n * math.prod(x.re.shape[axis] for axis in axes[:-1])
    scale = _scale(count, normalization)
    for axis in axes[:-1]:
        x = _transform(ctx, x, axis, forward=False, scale=1.0)
    half = n // 2 + 1
    re, im = (ctx.slice(part, last, 0, half) for part in (x.re, x.im))
    weight = np.full(half, 2.0)
    weight[0] = 1.0
    if n % 2 == 0:
        weight[-1] = 1.0
    angles = _angles(n, half, n)
    cosine = _matrix(ctx, scale * weight * np.cos(angles), re)
    sine = _matrix(ctx, scale * weight * np.sin(angles), re)
    return ctx.emit(ew.Sub(), _apply(ctx, re, last, cosine), _apply(ctx, im, last, sine))


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten._fft_r2c.default: real_to_complex,
}
COMPLEX: Mapping[OpOverload, Callable[..., Any]] = {
    aten._fft_c2c.default: complex_to_complex,
    aten._fft_c2r.default: complex_to_real,
}
