"""Instances of ops that move elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.ir.dtype import DType
from optc.ir.ops import (
    Concat,
    Expand,
    Flip,
    GatherElements,
    GatherNd,
    Op,
    Pad,
    PadMode,
    Reduction,
    Reshape,
    ScatterElements,
    ScatterNd,
    Slice,
    Take,
    Transpose,
)
from optc.ir.types import TensorType
from tests.strategies.shapes import ANY, EXTENTS, INDICES, axis_of, broadcastable, dtypes, shapes
from tests.strategies.values import Normal, Rows, Values, Whole

Parts = tuple[Op, list[TensorType], list[Values]]


def _data(draw: DrawFn, least: int = 0) -> TensorType:
    return TensorType(draw(shapes(least)), draw(dtypes((*ANY, DType.I4))))


def _reshape(draw: DrawFn, _: type[Op]) -> Parts:
    x, rest, shape = _data(draw), 0, []
    rest = x.elements
    for _ in range(draw(st.integers(0, 4))):
        divisors = [d for d in range(1, rest + 1) if rest % d == 0]
        shape.append(draw(st.sampled_from(divisors)))
        rest //= shape[-1]
    shape += [rest] if rest > 1 or draw(st.booleans()) else []
    return Reshape(tuple(shape)), [x], [Normal()]


def _transpose(draw: DrawFn, _: type[Op]) -> Parts:
    x = _data(draw)
    return Transpose(tuple(draw(st.permutations(range(x.rank))))), [x], [Normal()]


def _expand(draw: DrawFn, _: type[Op]) -> Parts:
    shape, dtype = draw(shapes()), draw(dtypes(ANY))
    return Expand(shape), [TensorType(draw(broadcastable(shape)), dtype)], [Normal()]


def _slice(draw: DrawFn, _: type[Op]) -> Parts:
    x = _data(draw)
    starts = [draw(st.integers(0, dim - 1)) for dim in x.shape]
    stops = [draw(st.integers(a + 1, dim)) for a, dim in zip(starts, x.shape, strict=True)]
    steps = [draw(st.sampled_from((1, 1, 2, 3))) for _ in x.shape]
    return Slice(tuple(starts), tuple(stops), tuple(steps)), [x], [Normal()]


def _flip(draw: DrawFn, _: type[Op]) -> Parts:
    x = _data(draw)
    return Flip(tuple(axis for axis in range(x.rank) if draw(st.booleans()))), [x], [Normal()]


def _pad(draw: DrawFn, _: type[Op]) -> Parts:
    x, mode = TensorType(draw(shapes()), draw(dtypes(ANY))), draw(st.sampled_from(PadMode))
    low, high = ([_width(draw, mode, dim) for dim in x.shape] for _ in range(2))
    value = draw(st.sampled_from((0, 1, 3))) if x.dtype is not DType.BOOL else True
    return Pad(tuple(low), tuple(high), mode, value), [x], [Normal()]


def _width(draw: DrawFn, mode: PadMode, dim: int) -> int:
    limit = {PadMode.REFLECT: dim - 1, PadMode.CIRCULAR: dim}.get(mode, 3)
    return draw(st.integers(0, min(limit, 3)))


def _concat(draw: DrawFn, _: type[Op]) -> Parts:
    x = _data(draw, 1)
    axis = axis_of(draw, x.shape)
    count = draw(st.integers(1, 5))
    types = [
        x.with_shape((*x.shape[:axis], draw(EXTENTS), *x.shape[axis + 1 :])) for _ in range(count)
    ]
    return Concat(axis), types, [Normal()] * count


def _take(draw: DrawFn, _: type[Op]) -> Parts:
    x = _data(draw, 1)
    axis = axis_of(draw, x.shape)
    indices = TensorType(draw(shapes(0, 2)), draw(dtypes(INDICES)))
    return Take(axis), [x, indices], [Normal(), Whole(0, x.shape[axis] - 1)]


def _elements(draw: DrawFn) -> tuple[TensorType, TensorType, int]:
    x = TensorType(draw(shapes(1)), draw(dtypes(ANY)))
    axis = axis_of(draw, x.shape)
    shape = [draw(st.integers(1, dim)) for dim in x.shape]
    shape[axis] = draw(EXTENTS)
    return x, TensorType(tuple(shape), draw(dtypes(INDICES))), axis


def _gather_elements(draw: DrawFn, _: type[Op]) -> Parts:
    x, indices, axis = _elements(draw)
    return GatherElements(axis), [x, indices], [Normal(), Whole(0, x.shape[axis] - 1)]


def _scatter_elements(draw: DrawFn, _: type[Op]) -> Parts:
    x, indices, axis = _elements(draw)
    updates = x.with_shape([dim + draw(st.integers(0, 1)) for dim in indices.shape])
    op = ScatterElements(axis, _reduction(draw, x.dtype))
    return op, [x, indices, updates], [Normal(1.0), Whole(0, x.shape[axis] - 1), Normal(1.0)]


def _reduction(draw: DrawFn, dtype: DType) -> Reduction:
    # What adding bools means is nobody's question.
    return draw(st.sampled_from(Reduction)) if dtype is not DType.BOOL else Reduction.NONE


def _nd(draw: DrawFn) -> tuple[TensorType, TensorType, int]:
    x = TensorType(draw(shapes(1)), draw(dtypes(ANY)))
    depth = draw(st.integers(1, x.rank))
    shape = (*draw(shapes(0, 2)), depth)
    return x, TensorType(shape, draw(dtypes(INDICES))), depth


def _gather_nd(draw: DrawFn, _: type[Op]) -> Parts:
    x, indices, depth = _nd(draw)
    return GatherNd(), [x, indices], [Normal(), Rows(x.shape[:depth])]


def _scatter_nd(draw: DrawFn, _: type[Op]) -> Parts:
    x, indices, depth = _nd(draw)
    updates = x.with_shape(indices.shape[:-1] + x.shape[depth:])
    values: list[Values] = [Normal(1.0), Rows(x.shape[:depth]), Normal(1.0)]
    if math.prod(updates.shape) > 1 << 13:
        indices, updates = (
            TensorType((1, depth), indices.dtype),
            x.with_shape((1, *x.shape[depth:])),
        )
    return ScatterNd(_reduction(draw, x.dtype)), [x, indices, updates], values


MAKERS: Mapping[type[Op], Callable[[DrawFn, type[Op]], Parts]] = {
    Reshape: _reshape,
    Transpose: _transpose,
    Expand: _expand,
    Slice: _slice,
    Flip: _flip,
    Pad: _pad,
    Concat: _concat,
    Take: _take,
    GatherElements: _gather_elements,
    ScatterElements: _scatter_elements,
    GatherNd: _gather_nd,
    ScatterNd: _scatter_nd,
}
