"""Ops that move elements: each output element is one input element, found by index arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tvm import te, tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.element import (
    Lowering,
    Read,
    clamp_index,
    const,
    exact,
    guard,
    i32,
    move,
    pinned,
    ravel,
    unravel,
)
from optc.backends.tvm.lower.scatter import scatter_elements, scatter_nd
from optc.ir.ops import (
    Concat,
    Expand,
    Flip,
    GatherElements,
    GatherNd,
    Op,
    Pad,
    PadMode,
    Reshape,
    ScatterElements,
    ScatterNd,
    Slice,
    Take,
    Transpose,
)
from optc.ir.types import TensorType

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]


def _reshape(op: Reshape, tensors: Tensors, types: Types) -> Tensors:
    read, old = exact(tensors[0]), types[0].shape
    groups = matching_groups(old, op.shape)

    def element(*index: Expr) -> Expr:
        source: list[Expr] = []
        for olds, news in groups:
            part = index[news.start : news.stop]
            flat = ravel(part, op.shape[news.start : news.stop])
            source += unravel(flat, old[olds.start : olds.stop])
        return read(*source)

    return [move("reshape", op.shape, element)]


def matching_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """The shortest runs of axes that hold equal numbers of elements, side by side.

    An axis that a reshape leaves alone is a group of its own, so its index needs no division.
    """
    if 0 in old or 0 in new:
        return [(range(len(old)), range(len(new)))]
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        start, before = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while (left := math.prod(old[start:i])) != (right := math.prod(new[before:j])):
            if left < right:
                i += 1
            else:
                j += 1
        groups.append((range(start, i), range(before, j)))
    return groups


def _transpose(op: Transpose, tensors: Tensors, types: Types) -> Tensors:
    read = exact(tensors[0])
    place = [op.perm.index(axis) for axis in range(len(op.perm))]
    shape = op.infer(*types)[0].shape
    return [move("transpose", shape, lambda *index: read(*(index[i] for i in place)))]


def _expand(op: Expand, tensors: Tensors, types: Types) -> Tensors:
    read, old = exact(tensors[0]), types[0].shape
    return [move("expand", op.shape, lambda *index: read(*pinned(index, old)))]


def _slice(op: Slice, tensors: Tensors, types: Types) -> Tensors:
    read, shape = exact(tensors[0]), op.infer(*types)[0].shape

    def element(*index: Expr) -> Expr:
        rows = zip(index, op.starts, op.steps, strict=True)
        return read(*(place * i32(step) + i32(start) for place, start, step in rows))

    return [move("slice", shape, element)]


def _flip(op: Flip, tensors: Tensors, types: Types) -> Tensors:
    read, shape = exact(tensors[0]), types[0].shape

    def element(*index: Expr) -> Expr:
        rows = enumerate(zip(index, shape, strict=True))
        return read(*(i32(dim - 1) - i if axis in op.axes else i for axis, (i, dim) in rows))

    return [move("flip", shape, element)]


def _pad(op: Pad, tensors: Tensors, types: Types) -> Tensors:
    (x,), read = types, exact(tensors[0])
    shape = op.infer(x)[0].shape

    def element(*index: Expr) -> Expr:
        rows = list(zip(index, x.shape, op.low, op.high, strict=True))
        places = [place - i32(low) for place, _, low, _ in rows]
        if op.mode is not PadMode.CONSTANT:
            inside = [
                _reflected(op.mode, place, dim) if low or high else place
                for place, (_, dim, low, high) in zip(places, rows, strict=True)
            ]
            return read(*inside)
        value = const(_number(op.value, x), x.dtype)
        return within(places, rows_of(x.shape, op.low, op.high), read(*places), value)

    return [move("pad", shape, element)]


def _number(value: float | int | bool, x: TensorType) -> float | int | bool:
    return float(value) if x.dtype.is_float else int(value) if x.dtype.is_integer else bool(value)


def rows_of(
    shape: Sequence[int], low: Sequence[int], high: Sequence[int]
) -> list[tuple[int, bool, bool]]:
    """Per axis: extent, and whether an index may lie below or above it."""
    return [(dim, a > 0, b > 0) for dim, a, b in zip(shape, low, high, strict=True)]


def within(
    places: Sequence[Expr], rows: Sequence[tuple[int, bool, bool]], inside: Expr, outside: Expr
) -> Expr:
    """`inside`, which is computed only where every place is in its extent, else `outside`."""
    conditions: list[Expr] = []
    for place, (dim, below, above) in zip(places, rows, strict=True):
        conditions += [place >= i32(0)] if below else []
        conditions += [place < i32(dim)] if above else []
    return guard(tirx.all(*conditions), inside, outside) if conditions else inside


def _reflected(mode: PadMode, place: Expr, dim: int) -> Expr:
    last = i32(dim - 1)
    if mode is PadMode.REPLICATE:
        return tirx.max(tirx.min(place, last), i32(0))
    if mode is PadMode.CIRCULAR:
        wrapped = tirx.Select(place < i32(0), place + i32(dim), place)
        return tirx.Select(wrapped > last, wrapped - i32(dim), wrapped)
    folded = tirx.Select(place < i32(0), i32(0) - place, place)
    return tirx.Select(folded > last, i32(2 * (dim - 1)) - folded, folded)


def _concat(op: Concat, tensors: Tensors, types: Types) -> Tensors:
    shape = op.infer(*types)[0].shape
    starts = [sum(type.shape[op.axis] for type in types[:i]) for i in range(len(types) + 1)]
    reads = [exact(tensor) for tensor in tensors]

    def element(*index: Expr) -> Expr:
        return _pick(reads, starts, 0, len(reads), list(index), op.axis)

    return [move("concat", shape, element)]


def _pick(
    reads: Sequence[Read], starts: Sequence[int], low: int, high: int, index: list[Expr], axis: int
) -> Expr:
    """The input among [low, high) that covers the index, by halving."""
    if high - low == 1:
        place = index[axis] - i32(starts[low])
        return reads[low](*index[:axis], place, *index[axis + 1 :])
    middle = (low + high) // 2
    left = _pick(reads, starts, low, middle, index, axis)
    right = _pick(reads, starts, middle, high, index, axis)
    return guard(index[axis] < i32(starts[middle]), left, right)


def _take(op: Take, tensors: Tensors, types: Types) -> Tensors:
    (data, indices), (read, row) = types, map(exact, tensors)
    shape, middle = op.infer(*types)[0].shape, op.axis + indices.rank

    def element(*index: Expr) -> Expr:
        place = clamp_index(row(*index[op.axis : middle]), data.shape[op.axis])
        return read(*index[: op.axis], place, *index[middle:])

    return [move("take", shape, element)]


def _gather_elements(op: GatherElements, tensors: Tensors, types: Types) -> Tensors:
    (data, indices), (read, row) = types, map(exact, tensors)

    def element(*index: Expr) -> Expr:
        place = clamp_index(row(*index), data.shape[op.axis])
        return read(*index[: op.axis], place, *index[op.axis + 1 :])

    return [move("gather_elements", indices.shape, element)]


def _gather_nd(op: GatherNd, tensors: Tensors, types: Types) -> Tensors:
    (data, indices), (read, row) = types, map(exact, tensors)
    depth, outer = indices.shape[-1], indices.rank - 1

    def element(*index: Expr) -> Expr:
        places = [
            clamp_index(row(*index[:outer], i32(axis)), data.shape[axis]) for axis in range(depth)
        ]
        return read(*places, *index[outer:])

    return [move("gather_nd", op.infer(*types)[0].shape, element)]


LOWER: Mapping[type[Op], Lowering] = {
    Reshape: _reshape,
    Transpose: _transpose,
    Expand: _expand,
    Slice: _slice,
    Flip: _flip,
    Pad: _pad,
    Concat: _concat,
    Take: _take,
    GatherElements: _gather_elements,
    GatherNd: _gather_nd,
    ScatterElements: scatter_elements,
    ScatterNd: scatter_nd,
}
