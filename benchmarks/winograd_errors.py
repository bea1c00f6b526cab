"""What Winograd's way costs in accuracy: `python -m benchmarks winograd-errors`.

Steps of the kernels are followed in f32 with numpy: filters transformed in f64 and rounded once,
tiles transformed along one axis and then the other, products summed channel by channel. Beside
them the direct sum in f32, both held to f64. Numbers are normal, filters scaled to keep size.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels import RESULTS
from optc.backends.tvm.templates.minimal import TAPS, Minimal, matrix, toom_cook

SETS = (
    "0 1 -1",
    "0 1 -1 2 -2",
    "0 1 -1 1/2 -1/2",
    "0 1 -1 1/2 -2",
    "0 1/2 -1/2 2 -2",
    "0 3/4 -3/4 4/3 -4/3",
    "0 3/4 -3/4 3/2 -3/2",
    "0 5/8 -5/8 5/4 -5/4",
    "0 5/8 -5/8 3/2 -3/2",
    "0 1 -1 2 -2 1/2 -1/2",
)
DEPTHS = (3, 16, 64, 128, 256, 512)
TILES, OUTPUTS = 32, 16
F32 = NDArray[np.float32]


def times(rows: NDArray[np.float64], array: F32, axis: int) -> F32:
    """A matrix times an axis, term by term in f32."""
    array = np.moveaxis(array, axis, 0)
    found = []
    for row in rows.astype(np.float32):
        total = np.zeros_like(array[0])
        for factor, value in zip(row, array, strict=True):
            total = total + factor * value if factor else total
        found.append(total)
    return np.moveaxis(np.stack(found), 0, axis)


def winograd(one: Minimal, data: F32, filters: F32) -> F32:
    """Results of tiles [tile, row, column, channel] by filters [out, channel, 3, 3]."""
    spread = matrix(one.filter)
    weights = np.einsum("ik,ockl,jl->ijco", spread, filters.astype(np.float64), spread)
    rounded = weights.astype(np.float32)
    points = times(matrix(one.data), times(matrix(one.data), data, 1), 2)
    sums = np.zeros((*points.shape[:3], filters.shape[0]), np.float32)
    for channel in range(filters.shape[1]):
        sums += points[..., channel : channel + 1] * rounded[:, :, channel]
    return times(matrix(one.result), times(matrix(one.result), sums, 1), 2)


def direct(size: int, data: NDArray[np.floating], filters: NDArray[np.floating]) -> NDArray:  # type: ignore[type-arg]
    """The definition, in the type of its operands."""
    total = np.zeros((data.shape[0], size, size, filters.shape[0]), data.dtype)
    for i in range(TAPS):
        for j in range(TAPS):
            part = data[:, i : i + size, j : j + size]
            for channel in range(filters.shape[1]):
                total += part[..., channel : channel + 1] * filters[:, channel, i, j]
    return total


def ratios(points: str, depth: int, seeds: int) -> tuple[float, float]:
    """Errors as multiples of the direct sum's, root mean square and largest; the median seed."""
    one = toom_cook(tuple(map(Fraction, points.split())))
    found = []
    for seed in range(seeds):
        source = np.random.default_rng(seed)
        data = source.standard_normal((TILES, one.points, one.points, depth)).astype(np.float32)
        filters = source.standard_normal((OUTPUTS, depth, TAPS, TAPS)).astype(np.float32)
        right = direct(one.outputs, data.astype(np.float64), filters.astype(np.float64))
        mine = np.abs(winograd(one, data, filters) - right)
        plain = np.abs(direct(one.outputs, data, filters) - right)
        rms = float(np.sqrt((mine**2).mean() / (plain**2).mean()))
        found.append((rms, float(mine.max() / plain.max())))
    middle = np.median(np.array(found), axis=0)
    return float(middle[0]), float(middle[1])


HEAD = """# Rounding of Winograd's way by points

Command: `python -m benchmarks winograd-errors`. Errors beside f64 as multiples of the direct f32
sum's: root mean square, and largest. numpy, one thread, {date}. F(m x m, 3x3) has m + 1 points.

| F | points | {depths} |
|{rule}|
"""


def main(arguments: Sequence[str]) -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks winograd-errors")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    depths = " | ".join(f"{depth} channels" for depth in DEPTHS)
    text = HEAD.format(depths=depths, rule="---|" * (len(DEPTHS) + 1) + "---", date=date.today())
    for points in SETS:
        cells = (ratios(points, depth, options.seeds) for depth in DEPTHS)
        size = len(points.split()) - 1
        shown = " | ".join(f"{rms:.1f}, {most:.1f}" for rms, most in cells)
        text += f"| {size}x{size} | {points} | {shown} |\n"
    (options.results / "winograd_errors.md").write_text(text)
    print(text)
    return 0
