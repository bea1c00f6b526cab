"""ATen rules: sorting, the k largest, and searching in sorted numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, Operand, axis_of, require
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import ReduceSum, Sort, TopK, ew

aten = torch.ops.aten


def sort(ctx: Context, x: Value, dim: int = -1, descending: bool = False) -> list[Value]:
    """Values in order, and their places; stable always."""
    if x.type.rank == 0:
        return [x, ctx.full(x.type.with_dtype(DType.I64), 0)]
    return list(ctx.emit_all(Sort(axis_of(dim, x.type.rank), descending), x))


def stable_sort(
    ctx: Context, x: Value, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> list[Value]:
    """sort.stable."""
    return sort(ctx, x, dim, descending)


def argsort(ctx: Context, x: Value, dim: int = -1, descending: bool = False) -> Value:
    """Places of the values in order."""
    return sort(ctx, x, dim, descending)[1]


def top_k(
    ctx: Context, x: Value, k: int, dim: int = -1, largest: bool = True, ordered: bool = True
) -> list[Value]:
    """The k largest or smallest, in order, and their places."""
    if x.type.rank == 0:
        return [x, ctx.full(x.type.with_dtype(DType.I64), 0)]
    return list(ctx.emit_all(TopK(k, axis_of(dim, x.type.rank), largest), x))


def kth_value(ctx: Context, x: Value, k: int, dim: int = -1, keepdim: bool = False) -> list[Value]:
    """The k-th smallest and its place."""
    values, places = sort(ctx, x, dim)
    if x.type.rank == 0:
        return [values, places]
    axis = axis_of(dim, x.type.rank)
    parts = [ctx.slice(part, axis, k - 1, k) for part in (values, places)]
    if keepdim:
        return parts
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return [ctx.reshape(part, shape) for part in parts]


def bucketize(
    ctx: Context, x: Operand, edges: Value, *, out_int32: bool = False, right: bool = False
) -> Value:
    """How many edges lie below each number (or not above it when `right`)."""
    number, bounds = ctx.common(x, edges)
    columns = ctx.unsqueeze(number, number.type.rank)
    below = ctx.emit(ew.LessEqual() if right else ew.Less(), bounds, columns)
    return _counted(ctx, below)


def search_sorted(
    ctx: Context,
    edges: Value,
    x: Operand,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    """bucketize with a row of edges per row of numbers."""
    require(sorter is None, "searchsorted with a sorter is not supported")
    right = right or side == "right"
    if edges.type.rank == 1:
        return bucketize(ctx, x, edges, right=right)
    assert isinstance(x, Value)
    bounds, number = ctx.common(edges, x)
    rank = number.type.rank
    rows, columns = ctx.unsqueeze(bounds, rank - 1), ctx.unsqueeze(number, rank)
    return _counted(ctx, ctx.emit(ew.LessEqual() if right else ew.Less(), rows, columns))


def _counted(ctx: Context, below: Value) -> Value:
    return ctx.emit(ReduceSum((below.type.rank - 1,)), ctx.cast(below, ctx.dtype()))


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.sort.default: sort,
    aten.sort.stable: stable_sort,
    aten.argsort.default: argsort,
    aten.topk.default: top_k,
    aten.kthvalue.default: kth_value,
    aten.bucketize.Tensor: bucketize,
    aten.bucketize.Scalar: bucketize,
    aten.searchsorted.Tensor: search_sorted,
    aten.searchsorted.Scalar: search_sorted,
}
