"""ATen rules: reading and writing at places that tensors name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, axis_of, require
from optc.ir.capture.refusal import DATA_DEPENDENT, Refusal
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import (
    ArgMax,
    ArgMin,
    GatherElements,
    Reduction,
    ScatterNd,
    Sort,
    Take,
    TopK,
    ew,
)
from optc.ir.types import broadcast

aten = torch.ops.aten
Indices = Sequence[Value | None]


@dataclass(frozen=True, slots=True)
class _Places:
    """An advanced index: `axes`, merged, read at `linear` (row-major among them)."""

    axes: tuple[int, ...]
    linear: Value

    @property
    def adjacent(self) -> bool:
        return self.axes == tuple(range(self.axes[0], self.axes[-1] + 1))


def from_front(ctx: Context, index: Value, extent: int) -> Value:
    """Indices counted from the front: negative ones count from the end of the axis."""
    tensor = ctx.known(index)
    if tensor is not None:
        places = tensor.long()
        return ctx.indices(torch.where(places < 0, places + extent, places))
    wide = index if index.type.dtype in (DType.I32, DType.I64) else ctx.cast(index, DType.I64)
    if _never_negative(ctx, index):
        return wide
    kind = wide.type.dtype
    negative = ctx.emit(ew.Less(), wide, ctx.number(0, kind))
    return ctx.emit(ew.Where(), negative, ctx.emit(ew.Add(), wide, ctx.number(extent, kind)), wide)


def _never_negative(ctx: Context, index: Value) -> bool:
    if index.type.dtype is DType.U8:
        return True
    node = ctx.builder.producer(index)
    if node is None:
        return False
    if isinstance(node.op, Sort | TopK):
        return index is node.outputs[1]
    return isinstance(node.op, ArgMax | ArgMin)


def _expanded(ctx: Context, indices: Indices, shape: tuple[int, ...]) -> list[tuple[int, Value]]:
    """(axis, integer index) per indexed axis; a constant mask becomes the places where it holds."""
    found: list[tuple[int, Value]] = []
    axis = 0
    for index in indices:
        if index is None:
            axis += 1
            continue
        if index.type.dtype is not DType.BOOL:
            found.append((axis, from_front(ctx, index, shape[axis])))
            axis += 1
            continue
        mask = ctx.known(index)
        if mask is None:
            raise Refusal(DATA_DEPENDENT)
        places = mask.nonzero(as_tuple=True) if mask.dim() else ()
        require(mask.dim() > 0, "a mask without axes is not supported")
        found += [(axis + offset, ctx.indices(place)) for offset, place in enumerate(places)]
        axis += mask.dim()
    return found


def _places(ctx: Context, x: Value, indices: Indices) -> _Places:
    pairs = _expanded(ctx, indices, x.shape)
    require(bool(pairs), "an index without tensors is not supported")
    shape = broadcast(*(index.shape for _, index in pairs))
    axes = tuple(axis for axis, _ in pairs)
    tensors = [ctx.known(index) for _, index in pairs]
    stride, total, linear = 1, None, None
    if all(tensor is not None for tensor in tensors):
        fixed = torch.zeros(shape, dtype=torch.int64)
        for axis, tensor in reversed(list(zip(axes, tensors, strict=True))):
            assert tensor is not None
            fixed = fixed + tensor * stride
            stride *= x.shape[axis]
        return _Places(axes, ctx.indices(fixed))
    for axis, index in reversed(pairs):
        wide = ctx.cast(index, DType.I64) if len(pairs) > 1 else index
        term = wide if stride == 1 else ctx.emit(ew.Mul(), wide, ctx.number(stride, DType.I64))
        linear = term if total is None else ctx.emit(ew.Add(), term, total)
        total = linear
        stride *= x.shape[axis]
    assert linear is not None
    return _Places(axes, ctx.expand(linear, shape))


def _merged(ctx: Context, x: Value, places: _Places) -> tuple[Value, int, list[int]]:
    """x with the indexed axes merged into one: the value, that axis, and the order of axes used."""
    rank = x.type.rank
    rest = [axis for axis in range(rank) if axis not in places.axes]
    at = places.axes[0] if places.adjacent else 0
    order = [*rest[:at], *places.axes, *rest[at:]]
    ordered = ctx.permute(x, order)
    count = len(places.axes)
    return ctx.reshape(ordered, (*ordered.shape[:at], -1, *ordered.shape[at + count :])), at, order


def index(ctx: Context, x: Value, indices: Indices) -> Value:
    """x[indices] with tensors: numpy's advanced indexing."""
    places = _places(ctx, x, indices)
    merged, axis, _ = _merged(ctx, x, places)
    return ctx.emit(Take(axis), merged, places.linear)


def index_put(
    ctx: Context, x: Value, indices: Indices, values: Value, accumulate: bool = False, *_: Any
) -> Value:
    """x with x[indices] replaced by, or increased by, values."""
    values = ctx.cast(values, x.type.dtype)
    masked = _as_where(ctx, x, indices, values, accumulate)
    if masked is not None:
        return masked
    places = _places(ctx, x, indices)
    rest = [axis for axis in range(x.type.rank) if axis not in places.axes]
    order = [*places.axes, *rest]
    front = ctx.permute(x, order)
    tail = front.shape[len(places.axes) :]
    data = ctx.reshape(front, (-1, *tail))
    at = places.axes[0] if places.adjacent else 0
    spread = places.linear.shape
    wanted = (*tail[:at], *spread, *tail[at:])
    updates = ctx.expand(values, wanted)
    perm = [*range(at, at + len(spread)), *range(at), *range(at + len(spread), len(wanted))]
    updates = ctx.permute(updates, perm)
    how = Reduction.ADD if accumulate else Reduction.NONE
    rows = ctx.reshape(places.linear, (*spread, 1))
    result = ctx.emit(ScatterNd(how), data, rows, updates)
    back = [order.index(axis) for axis in range(x.type.rank)]
    return ctx.permute(ctx.reshape(result, front.shape), back)


def _as_where(
    ctx: Context, x: Value, indices: Indices, values: Value, accumulate: bool
) -> Value | None:
    """A mask with one value for all places is a choice, whatever the data."""
    given = [index for index in indices if index is not None]
    if len(given) != 1 or given[0].type.dtype is not DType.BOOL or values.type.elements != 1:
        return None
    before = indices.index(given[0])
    mask = given[0]
    after = x.type.rank - before - mask.type.rank
    mask = ctx.reshape(mask, (*mask.shape, *[1] * after))
    number = ctx.reshape(values, ())
    if accumulate:
        number = ctx.emit(ew.Add(), x, number)
    return ctx.emit(ew.Where(), mask, number, x)


def index_select(ctx: Context, x: Value, dim: int, indices: Value) -> Value:
    """Rows of an axis."""
    if x.type.rank == 0:
        return ctx.expand(x, ctx.shape())
    rows = ctx.reshape(indices, (-1,))
    return ctx.emit(Take(axis_of(dim, x.type.rank)), x, rows)


def take(ctx: Context, x: Value, indices: Value) -> Value:
    """Elements of the flattened tensor."""
    flat = ctx.reshape(x, (-1,))
    return ctx.emit(Take(0), flat, from_front(ctx, indices, flat.shape[0]))


def gather(ctx: Context, x: Value, dim: int, indices: Value, **_: Any) -> Value:
    """out[i, j] = x[i, index[i, j]] for axis 1."""
    shape = indices.shape
    if x.type.rank == 0:
        x = ctx.reshape(x, (1,))
    if indices.type.rank == 0:
        indices = ctx.reshape(indices, (1,))
    if not indices.type.elements:
        return ctx.full(x.type.with_shape(shape), 0)
    axis = axis_of(dim, x.type.rank)
    return ctx.reshape(ctx.emit(GatherElements(axis), x, indices), shape)


def embedding(ctx: Context, weight: Value, indices: Value, *_: Any, **__: Any) -> Value:
    """Rows of a table."""
    if indices.type.dtype not in (DType.I32, DType.I64):
        indices = ctx.cast(indices, DType.I64)
    return ctx.emit(Take(0), weight, indices)


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.index.Tensor: index,
    aten._unsafe_index.Tensor: index,
    aten.index_put.default: index_put,
    aten._unsafe_index_put.default: index_put,
    aten.index_select.default: index_select,
    aten.take.default: take,
    aten.gather.default: gather,
    aten.embedding.default: embedding,
}
