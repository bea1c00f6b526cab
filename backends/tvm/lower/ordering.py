"""Sorting: a stable merge sort of (value, place) pairs per row, rows in parallel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.lower.element import (
    Lowering,
    cast,
    choose,
    i32,
    is_nan,
    narrow,
    unravel,
    wide,
)
from optc.backends.tvm.lower.elementwise import converter
from optc.backends.tvm.lower.loop_nest import loop_nest
from optc.ir.dtype import DType
from optc.ir.ops import Op, Sort, TopK
from optc.ir.types import TensorType

if TYPE_CHECKING:
    from optc.backends.tvm.templates.loops import Code

_RUN = 8  # elements that insertion sort orders before merging starts
_PARTS = 64  # threads' shares: each has its own scratch rows
_FEW = 256  # as many of the best are kept by insertion, more are cut from a full sort

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]


@dataclass(frozen=True)
class _Pairs:
    """Values of one row, of a dtype that can be compared, and their places (int32)."""

    values: Buffer
    places: Buffer

    def move(self, code: Code, to: Expr, value: Expr, place: Expr) -> None:
        code.store(self.values, (to,), value)
        code.store(self.places, (to,), place)


def _before(dtype: DType, descending: bool) -> Callable[[Expr, Expr], Expr]:
    """Whether one element must stand before another; equal ones need not."""

    def before(x: Expr, y: Expr) -> Expr:
        nan_x, nan_y = is_nan(x, dtype), is_nan(y, dtype)
        if descending:
            return tirx.any(x > y, tirx.all(nan_x, tirx.Not(nan_y)))
        return tirx.any(x < y, tirx.all(nan_y, tirx.Not(nan_x)))

    return before


def _sort(op: Sort, tensors: Tensors, types: Types) -> Tensors:
    (x,) = types
    return _ordered(op.name, tensors, x, op.axis, x.shape[op.axis], op.descending)


def _top_k(op: TopK, tensors: Tensors, types: Types) -> Tensors:
    (x,) = types
    return _ordered(op.name, tensors, x, op.axis, op.k, op.largest)


def _ordered(
    name: str, tensors: Tensors, x: TensorType, axis: int, count: int, descending: bool
) -> Tensors:
    """The first `count` of each row in order, and their places."""
    extent, others = x.shape[axis], [dim for i, dim in enumerate(x.shape) if i != axis]
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    # Halves and bools are sorted in a wider dtype, and come back as they were.
    kind = DType.I8 if x.dtype is DType.BOOL else wide(x.dtype)
    rows, before, back = math.prod(others), _before(kind, descending), converter(kind, x.dtype)

    def body(code: Code, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> None:
        if not rows * count:
            return
        share = -(-rows // min(rows, _PARTS))
        with code.parallel("part", -(-rows // share)) as part:
            small = count <= _FEW and count < extent
            size = count if small else extent
            buffers = [_scratch(code, kind, size, i) for i in range(1 if small else 2)]
            with code.loop("row", share) as step:
                row = part * i32(share) + step
                with code.when(row < i32(rows)):
                    index = unravel(row, others)
                    read = _along(ins[0], index, axis, x.dtype, kind)
                    if small:
                        _keep_best(code, read, buffers[0], extent, count, before)
                    else:
                        _merge_sort(code, read, buffers, extent, before)
                    with code.loop("rank", count) as rank:
                        goal = [*index[:axis], rank, *index[axis:]]
                        value = back(buffers[0].values[rank])
                        code.store(outs[0], goal, narrow(value, x.dtype))
                        code.store(outs[1], goal, tirx.Cast("int64", buffers[0].places[rank]))

    types = [x.with_shape(shape), TensorType(shape, DType.I64)]
    return loop_nest(name, tensors, types, body)


def _scratch(code: Code, kind: DType, size: int, number: int) -> _Pairs:
    return _Pairs(
        code.scratch(f"values{number}", (size,), tvm_dtype(kind)),
        code.scratch(f"places{number}", (size,), "int32"),
    )


def _along(
    source: Buffer, index: Sequence[Expr], axis: int, dtype: DType, kind: DType
) -> Callable[[Expr], Expr]:
    def read(place: Expr) -> Expr:
        item = source[(*index[:axis], place, *index[axis:])]
        return item if dtype is kind else cast(item, kind)

    return read


def _merge_sort(
    code: Code,
    read: Callable[[Expr], Expr],
    buffers: Sequence[_Pairs],
    extent: int,
    before: Callable[[Expr, Expr], Expr],
) -> None:
    """Bottom-up: runs of 8 by insertion, then doubled by merging to and fro; ends in the first."""
    passes = max(0, math.ceil(math.log2(extent / _RUN))) if extent else 0
    source, target = buffers if passes % 2 == 0 else buffers[::-1]
    _insert_runs(code, read, source, extent, before)
    width = _RUN
    for _ in range(passes):
        _merge_runs(code, source, target, width, extent, before)
        source, target, width = target, source, 2 * width


def _insert_runs(
    code: Code,
    read: Callable[[Expr], Expr],
    target: _Pairs,
    extent: int,
    before: Callable[[Expr, Expr], Expr],
) -> None:
    with code.loop("place", extent) as place:
        value = code.bind(read(place), "value")
        start = code.bind(tirx.indexdiv(place, i32(_RUN)) * i32(_RUN), "start")
        _insert(code, target, start, place, value, place, before)


def _insert(
    code: Code,
    target: _Pairs,
    start: Expr,
    end: Expr,
    value: Expr,
    place: Expr,
    before: Callable[[Expr, Expr], Expr],
) -> None:
    """Put a pair into the ordered [start, end), whose last element moves to `end`."""
    hole = code.scratch("hole", (1,), "int32")
    code.store(hole, (0,), end)
    last = tirx.max(hole[0] - 1, i32(0))
    with code.repeat(tirx.all(hole[0] > start, before(value, target.values[last]))):
        target.move(code, hole[0], target.values[last], target.places[last])
        code.store(hole, (0,), hole[0] - 1)
    target.move(code, hole[0], value, place)


def _merge_runs(
    code: Code,
    source: _Pairs,
    target: _Pairs,
    width: int,
    extent: int,
    before: Callable[[Expr, Expr], Expr],
) -> None:
    with code.loop("pair", -(-extent // (2 * width))) as pair:
        low = code.bind(pair * i32(2 * width), "low")
        middle = code.bind(tirx.min(low + i32(width), i32(extent)), "middle")
        high = code.bind(tirx.min(low + i32(2 * width), i32(extent)), "high")
        heads = code.scratch("heads", (2,), "int32")
        code.store(heads, (0,), low)
        code.store(heads, (1,), middle)
        with code.loop("rank", high - low) as rank:
            left = code.bind(heads[0], "left")
            right = code.bind(heads[1], "right")
            # Past its end a head still points into the buffer; its value is not taken.
            x = code.bind(source.values[tirx.min(left, i32(extent - 1))], "x")
            y = code.bind(source.values[tirx.min(right, i32(extent - 1))], "y")
            later = tirx.any(left >= middle, tirx.all(right < high, before(y, x)))
            take = code.bind(later, "take")
            chosen = choose(take, right, left)
            target.move(code, low + rank, choose(take, y, x), source.places[chosen])
            code.store(heads, (0,), left + choose(take, i32(0), i32(1)))
            code.store(heads, (1,), right + choose(take, i32(1), i32(0)))


def _keep_best(
    code: Code,
    read: Callable[[Expr], Expr],
    best: _Pairs,
    extent: int,
    count: int,
    before: Callable[[Expr, Expr], Expr],
) -> None:
    """One pass that keeps the `count` best in order; most elements only meet the worst of them."""
    with code.loop("place", count) as place:
        value = code.bind(read(place), "value")
        _insert(code, best, i32(0), place, value, place, before)
    with code.loop("place", extent - count) as step:
        place = step + i32(count)
        value = code.bind(read(place), "value")
        with code.when(before(value, best.values[i32(count - 1)])):
            _insert(code, best, i32(0), i32(count - 1), value, place, before)


LOWER: Mapping[type[Op], Lowering] = {Sort: _sort, TopK: _top_k}
