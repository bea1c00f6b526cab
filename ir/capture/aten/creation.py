"""ATen rules: tensors made from nothing become constants; their shapes may come from a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from optc.ir.capture.context import Context
from optc.ir.constant import Scalar
from optc.ir.graph import Value

aten = torch.ops.aten


def _filled(ctx: Context, number: Scalar) -> Tensor:
    """A tensor of the node's type that holds one number and takes no memory."""
    return torch.tensor(number).to(ctx.fake().dtype).expand(ctx.shape())


def full(ctx: Context, size: Sequence[int], number: Scalar, **_: Any) -> Tensor:
    """One number everywhere."""
    return torch.tensor(number).to(ctx.fake().dtype).expand(list(size))


def fill_of(number: Scalar) -> Callable[..., Tensor]:
    """A rule for ops that always give the same number, such as zeros_like."""
    return lambda ctx, *_, **__: _filled(ctx, number)


def full_like(ctx: Context, _: Any, number: Scalar, *__: Any, **___: Any) -> Tensor:
    """One number everywhere, in the shape of another tensor."""
    return _filled(ctx, number)


def new_full(ctx: Context, _: Any, __: Sequence[int], number: Scalar, **___: Any) -> Tensor:
    """One number everywhere, in the dtype of another tensor."""
    return _filled(ctx, number)


def fill(ctx: Context, x: Value, number: Any) -> Any:
    """One number, or the content of a rank-0 tensor, everywhere."""
    if not isinstance(number, Value):
        return _filled(ctx, number)
    return ctx.expand(ctx.cast(number, x.type.dtype), x.shape)


def size_of(_: Context, x: Value, axis: int) -> int:
    """Extent of an axis."""
    return x.shape[axis]


def elements(_: Context, x: Value) -> int:
    """Number of elements."""
    return x.type.elements


def stride_of(_: Context, x: Value, axis: int) -> int:
    """Distance of neighbours along an axis: values are dense and row-major."""
    rank = x.type.rank
    return int(torch.Size(x.shape[axis % rank + 1 :]).numel())


# A tensor that torch leaves uninitialised is zeros here: the same input gives the same output.
FACTORIES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.full.default: full,
    aten.zeros.default: fill_of(0),
    aten.ones.default: fill_of(1),
    aten.empty.memory_format: fill_of(0),
    aten.empty_strided.default: fill_of(0),
    aten.empty_permuted.default: fill_of(0),
}
RULES: Mapping[OpOverload, Callable[..., Any]] = {
    **FACTORIES,
    aten.full_like.default: full_like,
    aten.new_full.default: new_full,
    aten.zeros_like.default: fill_of(0),
    aten.ones_like.default: fill_of(1),
    aten.empty_like.default: fill_of(0),
    aten.new_zeros.default: fill_of(0),
    aten.new_ones.default: fill_of(1),
    aten.new_empty.default: fill_of(0),
    aten.new_empty_strided.default: fill_of(0),
    aten.fill.Scalar: fill,
    aten.fill.Tensor: fill,
    aten.sym_size.int: size_of,
    aten.sym_numel.default: elements,
    aten.sym_stride.int: stride_of,
    aten.sym_storage_offset.default: lambda ctx, x: 0,
}
