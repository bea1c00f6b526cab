"""ATen rules: writing at places along one axis, and where a mask holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.aten.indexing import index_put
from optc.ir.capture.context import Context, Operand, axis_of, require
from optc.ir.constant import Scalar
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import CumSum, Reduction, ScatterElements, Take, ew
from optc.ir.types import broadcast

aten = torch.ops.aten
_HOW: Mapping[str, Reduction] = {
    "sum": Reduction.ADD, "mean": Reduction.ADD, "add": Reduction.ADD, "prod": Reduction.MUL,
    "multiply": Reduction.MUL, "amax": Reduction.MAX, "amin": Reduction.MIN,
}  # fmt: skip
_INTEGER_LIMITS: Mapping[DType, tuple[int, int]] = {
    DType.BOOL: (0, 1),
    DType.U8: (0, 255),
    DType.I8: (-(1 << 7), (1 << 7) - 1),
    DType.I16: (-(1 << 15), (1 << 15) - 1),
    DType.I32: (-(1 << 31), (1 << 31) - 1),
    DType.I64: (-(1 << 63), (1 << 63) - 1),
}


def _put(ctx: Context, x: Value, dim: int, indices: Value, source: Value, how: Reduction) -> Value:
    """One ScatterElements; tensors without axes are vectors of one element meanwhile."""
    if not indices.type.elements:
        return x
    shape = x.shape
    x, indices, source = (
        ctx.reshape(item, (1,)) if item.type.rank == 0 else item for item in (x, indices, source)
    )
    op = ScatterElements(axis_of(dim, x.type.rank), how)
    return ctx.reshape(ctx.emit(op, x, indices, source), shape)


def _as_source(ctx: Context, x: Value, indices: Value, source: Operand) -> Value:
    if isinstance(source, Value):
        return ctx.cast(source, x.type.dtype)
    return ctx.full(x.type.with_shape(indices.shape), source)


def scatter(
    ctx: Context, x: Value, dim: int, indices: Value, source: Operand, *, reduce: str | None = None
) -> Value:
    """x with x[i, index[i, j]] replaced by, or joined with, source[i, j] for axis 1."""
    how = _HOW[reduce] if reduce else Reduction.NONE
    return _put(ctx, x, dim, indices, _as_source(ctx, x, indices, source), how)


def scatter_add(ctx: Context, x: Value, dim: int, indices: Value, source: Value) -> Value:
    """x with source[i, j] added at x[i, index[i, j]] for axis 1."""
    return scatter(ctx, x, dim, indices, source, reduce="add")


def neutral(how: Reduction, dtype: DType) -> Scalar:
    """The number that joins with any other without changing it."""
    if how is Reduction.ADD:
        return 0
    if how is Reduction.MUL:
        return 1
    low, high = (-float("inf"), float("inf")) if dtype.is_float else _INTEGER_LIMITS[dtype]
    return low if how is Reduction.MAX else high


def scatter_reduce(
    ctx: Context,
    x: Value,
    dim: int,
    indices: Value,
    source: Value,
    reduce: str,
    *,
    include_self: bool = True,
) -> Value:
    """Join what falls on each place, and what was there unless told otherwise."""
    how, kind = _HOW[reduce], x.type.dtype
    start = x if include_self else scatter(ctx, x, dim, indices, neutral(how, kind))
    total = _put(ctx, start, dim, indices, _as_source(ctx, x, indices, source), how)
    if reduce != "mean":
        return total
    ones = ctx.full(x.type, 1)
    first = ones if include_self else scatter(ctx, ones, dim, indices, 0)
    count = scatter_add(ctx, first, dim, indices, ctx.full(x.type.with_shape(indices.shape), 1))
    return ctx.emit(ew.Div() if kind.is_float else ew.FloorDiv(), total, count)


def _along(index: Value, axis: int) -> list[Value | None]:
    return [*[None] * axis, index]


def index_add(
    ctx: Context, x: Value, dim: int, indices: Value, source: Value, *, alpha: Scalar = 1
) -> Value:
    """Rows of source added to the rows of x that the index names."""
    kind = x.type.dtype
    scaled = source if alpha == 1 else ctx.emit(ew.Mul(), source, ctx.number(alpha, kind))
    return _index_write(ctx, x, dim, indices, scaled, accumulate=True)


def index_copy(ctx: Context, x: Value, dim: int, indices: Value, source: Value) -> Value:
    """Rows of x that the index names replaced by rows of source."""
    return _index_write(ctx, x, dim, indices, source, accumulate=False)


def _index_write(
    ctx: Context, x: Value, dim: int, indices: Value, source: Value, accumulate: bool
) -> Value:
    shape = x.shape
    if x.type.rank == 0:
        x, source = ctx.reshape(x, (1,)), ctx.reshape(source, (-1,))
    rows = ctx.reshape(indices, (-1,))
    axis = axis_of(dim, x.type.rank)
    return ctx.reshape(index_put(ctx, x, _along(rows, axis), source, accumulate), shape)


def masked_scatter(ctx: Context, x: Value, mask: Value, source: Value) -> Value:
    """Where the mask holds, the elements of source in order."""
    shape = broadcast(x.shape, mask.shape)
    mask = ctx.expand(ctx.cast(mask, DType.BOOL), shape)
    flat = ctx.reshape(source, (-1,))
    if not flat.shape[0]:
        return x
    # The n-th true place takes element n - 1; false places read something that is not used.
    counts = ctx.emit(CumSum(0), ctx.cast(ctx.reshape(mask, (-1,)), DType.I64))
    place = ctx.emit(ew.Sub(), counts, ctx.number(1, DType.I64))
    place = ctx.emit(ew.Clamp(0, flat.shape[0] - 1), place)
    taken = ctx.reshape(ctx.emit(Take(0), flat, place), shape)
    return ctx.emit(ew.Where(), mask, taken, x)


def put(ctx: Context, x: Value, indices: Value, source: Value, accumulate: bool = False) -> Value:
    """index_put on the flattened tensor."""
    require(indices.type.elements == source.type.elements, "put needs one element per index")
    flat = ctx.reshape(x, (-1,))
    rows, values = ctx.reshape(indices, (-1,)), ctx.reshape(source, (-1,))
    return ctx.reshape(index_put(ctx, flat, [rows], values, accumulate), x.shape)


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.scatter.src: scatter,
    aten.scatter.value: scatter,
    aten.scatter.reduce: scatter,
    aten.scatter.value_reduce: scatter,
    aten.scatter_add.default: scatter_add,
    aten.scatter_reduce.two: scatter_reduce,
    aten.index_add.default: index_add,
    aten.index_copy.default: index_copy,
    aten.masked_scatter.default: masked_scatter,
    aten.put.default: put,
}
