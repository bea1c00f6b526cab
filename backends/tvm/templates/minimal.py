"""Winograd's minimal filtering: the matrices of F(m, r), and their products as few operations.

F(m, r) gives m neighbouring results of an r-tap filter from m + r - 1 products (Winograd 1980; for
convolutions of images: Lavin and Gray, CVPR 2016): y = A [(G g) * (B d)], nested along both axes.
The matrices follow from m + r - 2 finite points and infinity (Toom and Cook). Rounding depends on
the points alone. After Barabasz et al. (ACM TOMS 2020) and Alam et al. (2022), symmetric points
other than integers are best; of nine sets for F(4x4, 3x3) the one below has the smallest root mean
square error at every depth. As a multiple of the direct f32 sum's (root mean square; largest):

    points               3 channels   16          64          512
    F(4x4) 0 +-1 +-2     7.2  13.9    4.6  5.6    3.8  5.6    3.7  6.2
    0 +-3/4 +-3/2        3.9   3.7    2.4  2.3    1.9  1.5    1.7  1.8
    0 +-5/8 +-3/2        3.6   4.5    2.2  1.9    1.8  1.7    1.6  1.5
    F(2x2) 0 +-1         1.2   1.0    0.7  0.5    0.6  0.6    0.6  0.2
    F(6x6) integers, 1/2  17    27     10   13    7.6  8.4    7.0  9.5

`benchmarks/results/winograd_errors.md` has all. The largest error stays some 1e-6 of the range at
any depth, so neither is declined for accuracy; F(6x6) is left out, since it also has more weights
and hardly fewer products on images of 56 and less. The points are fractions of a power of two: A
and B have no rounded element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import tirx
from tvm.ir import Expr

TAPS = 3
Row = tuple[Fraction, ...]
Bind = Callable[[Expr], Expr]

_POINTS: dict[int, tuple[Fraction, ...]] = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
}
SIZES = tuple(_POINTS)


@dataclass(frozen=True, slots=True)
class Minimal:
    """F(m, 3): `data` is B, `filter` is G, `result` is A; rows of exact fractions."""

    outputs: int
    data: tuple[Row, ...]
    filter: tuple[Row, ...]
    result: tuple[Row, ...]

    @property
    def points(self) -> int:
        """Products, and elements of the data."""
        return self.outputs + TAPS - 1


@cache
def minimal(outputs: int) -> Minimal:
    """F(outputs, 3) with the points of `outputs`, one of SIZES."""
    return toom_cook(_POINTS[outputs])


def toom_cook(points: Sequence[Fraction]) -> Minimal:
    """F(m, 3) from m + 1 finite points and infinity."""
    outputs = len(points) + 2 - TAPS
    data, filters = [], []
    for point in points:
        others = [other for other in points if other != point]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        data.append((*_polynomial(others), Fraction(0)))
        filters.append(tuple(point**k / scale for k in range(TAPS)))
    data.append(_polynomial(points))
    filters.append((Fraction(0),) * (TAPS - 1) + (Fraction(1),))
    result = [
        (*(point**i for point in points), Fraction(int(i == outputs - 1))) for i in range(outputs)
    ]
    return Minimal(outputs, tuple(data), tuple(filters), tuple(result))


def _polynomial(roots: Sequence[Fraction]) -> Row:
    """Coefficients of the product of (x - root), the constant one first."""
    found = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *found]
        found = [a - root * b for a, b in zip(shifted, [*found, Fraction(0)], strict=True)]
    return tuple(found)


def matrix(rows: Sequence[Row]) -> NDArray[np.float64]:
    """A matrix in f64."""
    return np.array([[float(item) for item in row] for row in rows])


@cache
def operations(rows: tuple[Row, ...]) -> int:
    """Multiplications and additions of `products` by that matrix."""
    found = 0

    def count(_: tirx.Add) -> None:
        nonlocal found
        found += 1

    def bound(value: Expr) -> Expr:
        tvm_ffi.structural_walk(value, ((tirx.Add, tirx.Sub, tirx.Mul), count))
        return tirx.Var("named", value.ty)

    vector = [tirx.Var(f"x{i}", tvm.ir.PrimType("float32")) for i in range(len(rows[0]))]
    for value in products(rows, vector, bound):
        bound(value)
    return found


def products(rows: Sequence[Row], vector: Sequence[Expr | None], bind: Bind) -> list[Expr]:
    """The matrix times a vector of f32, in which None is zero.

    Two rows, or two columns, that are mirror images of each other (points p and -p make such) share
    the sums over the elements that agree and over those that differ in sign.
    """
    rows, vector = _folded_columns(rows, vector, bind)
    found: dict[int, Expr] = {}
    for i, row in enumerate(rows):
        if i in found:
            continue
        mirror = next((k for k in range(i + 1, len(rows)) if _mirrored(row, rows[k])), None)
        if mirror is None:
            found[i] = _sum(row, vector)
            continue
        same = tuple(a if a == b else Fraction(0) for a, b in zip(row, rows[mirror], strict=True))
        other = tuple(a - s for a, s in zip(row, same, strict=True))
        even, odd = bind(_sum(same, vector)), bind(_sum(other, vector))
        found[i], found[mirror] = even + odd, even - odd
    return [found[i] for i in range(len(rows))]


def _mirrored(a: Row, b: Row) -> bool:
    """Whether the rows differ in signs only, and share sums of two elements or more."""
    agree = sum(x == y != 0 for x, y in zip(a, b, strict=True))
    differ = sum(x == -y != 0 for x, y in zip(a, b, strict=True))
    return agree + differ == sum(x != 0 for x in a) and agree + differ > 2 and agree * differ > 0


def _folded_columns(
    rows: Sequence[Row], vector: Sequence[Expr | None], bind: Bind
) -> tuple[Sequence[Row], Sequence[Expr | None]]:
    """Columns that are mirror images become one of sums and one of differences.

    Only where there are fewer rows than columns: sums and differences cost two operations.
    """
    columns = list(zip(*rows, strict=True))
    if len(columns) <= len(rows):
        return rows, vector
    values = list(vector)
    for i, column in enumerate(columns):
        for k in range(i + 1, len(columns)):
            left, right = values[i], values[k]
            if left is None or right is None or not _mirrored(column, columns[k]):
                continue
            values[i], values[k] = bind(left + right), bind(left - right)
            pairs = list(zip(column, columns[k], strict=True))
            columns[i] = tuple(a if a == b else Fraction(0) for a, b in pairs)
            columns[k] = tuple(a if a != b else Fraction(0) for a, b in pairs)
    return list(zip(*columns, strict=True)), values


def _sum(row: Row, vector: Sequence[Expr | None]) -> Expr:
    terms = [(a, x) for a, x in zip(row, vector, strict=True) if a and x is not None]
    terms.sort(key=lambda term: term[0] != 1)  # the first one costs nothing
    total: Expr | None = None
    for factor, value in terms:
        if total is None:
            total = value if factor == 1 else value * _f32(factor)
        elif abs(factor) == 1:
            total = total + value if factor == 1 else total - value
        else:
            total = total + value * _f32(factor)
    return tirx.const(0.0, "float32") if total is None else total


def _f32(value: Fraction) -> Expr:
    return tirx.const(float(value), "float32")
