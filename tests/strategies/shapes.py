"""Shapes and dtypes to draw from: small, odd, with axes of extent 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from optc.ir.dtype import DType

FLOATS = (DType.F32, DType.F32, DType.F64, DType.F16, DType.BF16)
INTEGERS = (DType.I64, DType.I32, DType.I16, DType.I8, DType.U8)
NUMBERS = (*FLOATS, *INTEGERS)
ANY = (*NUMBERS, DType.BOOL)
INDICES = (DType.I64, DType.I32)

EXTENTS = st.sampled_from((1, 2, 3, 4, 5, 7, 8, 16, 17, 33))
_MOST = 1024


def dtypes(choices: Sequence[DType]) -> SearchStrategy[DType]:
    """One of `choices`."""
    return st.sampled_from(choices)


def shapes(least: int = 0, most: int = 4) -> SearchStrategy[tuple[int, ...]]:
    """Shapes of a rank in [least, most] with at most a thousand elements."""
    drawn = st.lists(EXTENTS, min_size=least, max_size=most).map(tuple)
    return drawn.map(_small)


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    dims = list(shape)
    while math.prod(dims) > _MOST:
        widest = dims.index(max(dims))
        dims[widest] = dims[widest] // 2
    return tuple(dims)


@st.composite
def broadcastable(draw: DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `shape`: leading axes left out, some axes of extent 1."""
    kept = shape[draw(st.integers(0, len(shape))) :] if draw(st.booleans()) else shape
    return tuple(1 if draw(st.integers(0, 3)) == 0 else dim for dim in kept)


def axis_of(draw: DrawFn, shape: tuple[int, ...]) -> int:
    """One of the axes."""
    return draw(st.integers(0, len(shape) - 1))
