"""What ops that move elements mean, as torch functions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from optc.backends.reference.dtypes import Meaning, widened
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

_JOIN = {
    Reduction.ADD: "sum",
    Reduction.MUL: "prod",
    Reduction.MAX: "amax",
    Reduction.MIN: "amin",
}


def _slice(op: Slice, x: Tensor) -> Tensor:
    return x[tuple(slice(*bounds) for bounds in zip(op.starts, op.stops, op.steps, strict=True))]


def _pad(op: Pad, x: Tensor) -> Tensor:
    if op.mode is PadMode.CONSTANT:
        pairs = reversed(list(zip(op.low, op.high, strict=True)))
        widths = [width for pair in pairs for width in pair]
        return torch.constant_pad_nd(x, widths, op.value) if widths else x
    for axis, (low, high) in enumerate(zip(op.low, op.high, strict=True)):
        if low or high:
            x = x.index_select(axis, _outside(op.mode, x.shape[axis], low, high))
    return x


def _outside(mode: PadMode, extent: int, low: int, high: int) -> Tensor:
    """Which element stands at each place of a padded axis."""
    place = torch.arange(-low, extent + high)
    if mode is PadMode.REPLICATE:
        return place.clamp(0, extent - 1)
    if mode is PadMode.CIRCULAR:
        return place % extent
    return (extent - 1) - (extent - 1 - place.abs()).abs()


def _take(op: Take, data: Tensor, indices: Tensor) -> Tensor:
    rows = data.index_select(op.axis, indices.reshape(-1))
    return rows.reshape((*data.shape[: op.axis], *indices.shape, *data.shape[op.axis + 1 :]))


def _gather_nd(_: GatherNd, data: Tensor, indices: Tensor) -> Tensor:
    depth = indices.shape[-1]
    rows = data.reshape((math.prod(data.shape[:depth]), *data.shape[depth:]))
    picked = rows.index_select(0, _row_of(indices, data.shape).reshape(-1))
    return picked.reshape((*indices.shape[:-1], *data.shape[depth:]))


def _row_of(indices: Tensor, shape: torch.Size) -> Tensor:
    """Row-major place of each index tuple among the leading axes."""
    depth = indices.shape[-1]
    strides = [math.prod(shape[axis + 1 : depth]) for axis in range(depth)]
    return (indices.long() * torch.tensor(strides, dtype=torch.int64)).sum(-1)


def _scatter(data: Tensor, axis: int, indices: Tensor, updates: Tensor, how: Reduction) -> Tensor:
    if how is Reduction.NONE:
        return data.scatter(axis, indices, updates)
    if data.dtype is torch.bool:
        joined = _scatter(data.byte(), axis, indices, updates.byte(), _BOOLEAN[how])
        return joined.bool()
    return data.scatter_reduce(axis, indices, updates, _JOIN[how], include_self=True)


# For bools adding is "or" and multiplying is "and".
_BOOLEAN = {
    Reduction.ADD: Reduction.MAX,
    Reduction.MAX: Reduction.MAX,
    Reduction.MUL: Reduction.MIN,
    Reduction.MIN: Reduction.MIN,
}


def _scatter_elements(
    op: ScatterElements, data: Tensor, indices: Tensor, updates: Tensor
) -> Tensor:
    return _scatter(data, op.axis, indices.long(), updates, op.reduction)


def _scatter_nd(op: ScatterNd, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth = indices.shape[-1]
    width = math.prod(data.shape[depth:])
    rows = data.reshape(math.prod(data.shape[:depth]), width)
    # A scatter along rows joins the updates of one element in order; index_put promises none.
    place = _row_of(indices, data.shape).reshape(-1, 1).expand(-1, width)
    joined = _scatter(rows, 0, place, updates.reshape(place.shape), op.reduction)
    return joined.reshape(data.shape)


MEANING: Mapping[type[Op], Meaning] = {
    Reshape: lambda op, x: x.reshape(op.shape),
    Transpose: lambda op, x: x.permute(op.perm),
    Expand: lambda op, x: x.expand(op.shape),
    Slice: _slice,
    Flip: lambda op, x: x.flip(op.axes),
    Pad: _pad,
    Concat: lambda op, *inputs: torch.cat(inputs, op.axis),
    Take: _take,
    GatherElements: lambda op, data, indices: data.gather(op.axis, indices.long()),
    ScatterElements: widened(_scatter_elements),
    GatherNd: _gather_nd,
    ScatterNd: widened(_scatter_nd),
}
