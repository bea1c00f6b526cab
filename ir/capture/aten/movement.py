"""ATen rules: views, slices, joins and repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, axes_of, axis_of, require
from optc.ir.capture.refusal import DATA_DEPENDENT, Refusal
from optc.ir.graph import Value
from optc.ir.ops import Flip, ew

aten = torch.ops.aten


def view(ctx: Context, x: Value, shape: Sequence[int], *_: Any, **__: Any) -> Value:
    """The same elements in another shape."""
    return ctx.reshape(x, shape)


def view_dtype(ctx: Context, x: Value, dtype: torch.dtype) -> Value:
    """Reading bits as another type is refused, unless it is the same type."""
    require(
        ctx.fake().dtype is dtype and ctx.dtype() is x.type.dtype, "it reads bits as another type"
    )
    return x


def permute(ctx: Context, x: Value, dims: Sequence[int]) -> Value:
    """Axes in another order."""
    return ctx.permute(x, [axis_of(dim, x.type.rank) for dim in dims])


def transpose(ctx: Context, x: Value, first: int, second: int) -> Value:
    """Two axes exchanged."""
    rank = x.type.rank
    if rank == 0:
        return x
    perm = list(range(rank))
    a, b = axis_of(first, rank), axis_of(second, rank)
    perm[a], perm[b] = b, a
    return ctx.permute(x, perm)


def matrix_transpose(ctx: Context, x: Value) -> Value:
    """aten.t."""
    return transpose(ctx, x, 0, 1) if x.type.rank == 2 else x


def expand(ctx: Context, x: Value, shape: Sequence[int], **_: Any) -> Value:
    """Broadcast; -1 keeps an extent."""
    lead = len(shape) - x.type.rank
    sizes = [x.shape[axis - lead] if size == -1 else size for axis, size in enumerate(shape)]
    return ctx.expand(x, sizes)


def unsqueeze(ctx: Context, x: Value, dim: int) -> Value:
    """A new axis."""
    return ctx.unsqueeze(x, dim % (x.type.rank + 1))


def squeeze(ctx: Context, x: Value, dims: int | Sequence[int] | None = None) -> Value:
    """Without those of the named axes that have extent 1."""
    rank = x.type.rank
    named = axes_of(dims, rank) if dims != [] else ()
    shape = [n for axis, n in enumerate(x.shape) if not (axis in named and n == 1)]
    return ctx.reshape(x, shape)


def slice_tensor(
    ctx: Context,
    x: Value,
    dim: int = 0,
    start: int | None = None,
    stop: int | None = None,
    step: int = 1,
) -> Value:
    """Part of an axis."""
    axis = axis_of(dim, x.type.rank)
    end = x.shape[axis] if stop is None else stop
    return ctx.slice(x, axis, start or 0, end, step)


def narrow(ctx: Context, x: Value, dim: int, start: int, length: int) -> Value:
    """`length` elements of an axis from `start`."""
    axis = axis_of(dim, x.type.rank)
    first = start % x.shape[axis] if start < 0 else start
    return ctx.slice(x, axis, first, first + length)


def select(ctx: Context, x: Value, dim: int, index: int) -> Value:
    """One place of an axis, without the axis."""
    axis = axis_of(dim, x.type.rank)
    place = index % x.shape[axis]
    part = ctx.slice(x, axis, place, place + 1)
    return ctx.reshape(part, (*x.shape[:axis], *x.shape[axis + 1 :]))


def slice_scatter(
    ctx: Context,
    x: Value,
    source: Value,
    dim: int = 0,
    start: int | None = None,
    stop: int | None = None,
    step: int = 1,
) -> Value:
    """x with part of an axis replaced."""
    axis = axis_of(dim, x.type.rank)
    extent = x.shape[axis]
    first, last, _ = slice(start, stop, 1).indices(extent)
    source = ctx.expand(
        ctx.cast(source, x.type.dtype),
        (*x.shape[:axis], len(range(first, last, step)), *x.shape[axis + 1 :]),
    )
    if step == 1:
        head, tail = ctx.slice(x, axis, 0, first), ctx.slice(x, axis, max(last, first), extent)
        return ctx.concat([head, source, tail], axis)
    # Every element comes from x or from the source: a gather with constant places.
    places = np.arange(extent)
    places[first:last:step] = extent + np.arange(source.shape[axis])
    return ctx.take(ctx.concat([x, source], axis), axis, places)


def select_scatter(ctx: Context, x: Value, source: Value, dim: int, index: int) -> Value:
    """x with one place of an axis replaced."""
    axis = axis_of(dim, x.type.rank)
    place = index % x.shape[axis]
    return slice_scatter(ctx, x, ctx.unsqueeze(source, axis), axis, place, place + 1)


def cat(ctx: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Join along an axis; torch lets empty vectors join anything."""
    rank = max(value.type.rank for value in tensors)
    kept = [x for x in tensors if x.type.rank == rank and not (rank > 1 and x.shape == (0,))]
    return ctx.concat([ctx.cast(x, ctx.dtype()) for x in kept], axis_of(dim, rank))


def stack(ctx: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Join along a new axis."""
    axis = dim % (tensors[0].type.rank + 1)
    return ctx.concat([ctx.unsqueeze(ctx.cast(x, ctx.dtype()), axis) for x in tensors], axis)


def split_with_sizes(ctx: Context, x: Value, sizes: Sequence[int], dim: int = 0) -> list[Value]:
    """Parts of the given extents; those that nothing reads are not made."""
    axis = axis_of(dim, x.type.rank)
    ends = np.cumsum([0, *sizes]).tolist()
    return [
        ctx.slice(x, axis, first, last) if ctx.used(index) else x
        for index, (first, last) in enumerate(pairwise(ends))
    ]


def split(ctx: Context, x: Value, size: int | Sequence[int], dim: int = 0) -> list[Value]:
    """Parts of one extent, the last one shorter."""
    if not isinstance(size, int):
        return split_with_sizes(ctx, x, size, dim)
    extent = x.shape[axis_of(dim, x.type.rank)]
    sizes = [min(size, extent - start) for start in range(0, extent, size)] if extent else [0]
    return split_with_sizes(ctx, x, sizes, dim)


def unbind(ctx: Context, x: Value, dim: int = 0) -> list[Value]:
    """All places of an axis."""
    extent = x.shape[axis_of(dim, x.type.rank)]
    return [select(ctx, x, dim, index) if ctx.used(index) else x for index in range(extent)]


def flip(ctx: Context, x: Value, dims: Sequence[int]) -> Value:
    """Reverse axes."""
    axes = axes_of(dims, x.type.rank) if dims else ()
    return ctx.emit(Flip(axes), x) if axes else x


def roll(ctx: Context, x: Value, shifts: Any, dims: Any = ()) -> Value:
    """Rotate axes; without axes, the flattened tensor."""
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    axes = [dims] if isinstance(dims, int) else list(dims)
    if not axes:
        flat = roll(ctx, ctx.reshape(x, (-1,)), shifts, [0])
        return ctx.reshape(flat, x.shape)
    for shift, dim in zip(shifts, axes, strict=True):
        axis = axis_of(dim, x.type.rank)
        extent = x.shape[axis]
        cut = (-shift) % extent if extent else 0
        if cut:
            parts = [ctx.slice(x, axis, cut, extent), ctx.slice(x, axis, 0, cut)]
            x = ctx.concat(parts, axis)
    return x


def repeat(ctx: Context, x: Value, repeats: Sequence[int]) -> Value:
    """Tile: each axis is written so many times."""
    shape = (1,) * (len(repeats) - x.type.rank) + x.shape
    spread = [size for n in shape for size in (1, n)]
    wide = [size for times, n in zip(repeats, shape, strict=True) for size in (times, n)]
    tiled = ctx.expand(ctx.reshape(x, spread), wide)
    return ctx.reshape(tiled, [times * n for times, n in zip(repeats, shape, strict=True)])


def tile(ctx: Context, x: Value, repeats: Sequence[int]) -> Value:
    """Like repeat, with missing leading counts being 1."""
    return repeat(ctx, x, [1] * (x.type.rank - len(repeats)) + list(repeats))


def repeat_interleave(
    ctx: Context, x: Value, repeats: Any, dim: int | None = None, *, output_size: int | None = None
) -> Value:
    """Each element so many times in a row; counts must be known."""
    if dim is None:
        x, dim = ctx.reshape(x, (-1,)), 0
    axis = axis_of(dim, x.type.rank)
    if isinstance(repeats, int):
        shape = x.shape
        tall = (*shape[: axis + 1], repeats, *shape[axis + 1 :])
        wide = ctx.expand(ctx.unsqueeze(x, axis + 1), tall)
        return ctx.reshape(wide, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))
    counts = ctx.known(repeats)
    if counts is None:
        raise Refusal(DATA_DEPENDENT)
    return ctx.take(x, axis, np.repeat(np.arange(x.shape[axis]), counts.expand(x.shape[axis])))


def triangle(keep_lower: bool) -> Callable[..., Value]:
    """tril and triu: zeros on one side of a diagonal."""

    def run(ctx: Context, x: Value, diagonal: int = 0) -> Value:
        rows, columns = x.shape[-2:]
        ones = torch.ones(rows, columns, dtype=torch.bool)
        mask = ones.tril(diagonal) if keep_lower else ones.triu(diagonal)
        return ctx.emit(ew.Where(), ctx.constant(mask), x, ctx.number(0, x.type.dtype))

    return run


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.view.default: view,
    aten.view.dtype: view_dtype,
    aten._unsafe_view.default: view,
    aten.reshape.default: view,
    aten._reshape_alias.default: view,
    aten.permute.default: permute,
    aten.transpose.int: transpose,
    aten.t.default: matrix_transpose,
    aten.expand.default: expand,
    aten.unsqueeze.default: unsqueeze,
    aten.squeeze.default: squeeze,
    aten.squeeze.dim: squeeze,
    aten.squeeze.dims: squeeze,
    aten.slice.Tensor: slice_tensor,
    aten.narrow.default: narrow,
    aten.select.int: select,
    aten.slice_scatter.default: slice_scatter,
    aten.select_scatter.default: select_scatter,
    aten.cat.default: cat,
    aten.stack.default: stack,
    aten.split_with_sizes.default: split_with_sizes,
    aten.split.Tensor: split,
    aten.unbind.int: unbind,
    aten.flip.default: flip,
    aten.roll.default: roll,
    aten.repeat.default: repeat,
    aten.tile.default: tile,
    aten.repeat_interleave.self_int: repeat_interleave,
    aten.repeat_interleave.self_Tensor: repeat_interleave,
    aten.tril.default: triangle(keep_lower=True),
    aten.triu.default: triangle(keep_lower=False),
}
