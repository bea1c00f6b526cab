"""ATen rules: matrix products, convolutions and attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, require
from optc.ir.capture.refusal import RANDOM
from optc.ir.constant import Scalar
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Attention, Conv, ConvTranspose, Linear, MatMul, ReduceSum, ew
from optc.ir.ops.contraction import BYTES
from optc.ir.types import broadcast

aten = torch.ops.aten


def matmul(ctx: Context, a: Value, b: Value) -> Value:
    """torch.matmul: vectors are rows on the left and columns on the right."""
    if a.type.rank == 1 and b.type.rank == 1:
        return ctx.emit(ReduceSum((0,)), ctx.emit(ew.Mul(), a, b))
    left = ctx.unsqueeze(a, 0) if a.type.rank == 1 else a
    right = ctx.unsqueeze(b, 1) if b.type.rank == 1 else b
    product = _product(ctx, left, right)
    shape = list(product.shape)
    if a.type.rank == 1:
        del shape[-2]
    if b.type.rank == 1:
        del shape[-1]
    return ctx.reshape(product, shape)


def _product(ctx: Context, a: Value, b: Value, *, transpose_b: bool = False) -> Value:
    """The product in the dtype of its factors, as torch has it: sums of bytes wrap."""
    product = ctx.emit(MatMul(transpose_b), a, b)
    return ctx.cast(product, a.type.dtype) if product.type.dtype is not a.type.dtype else product


def linear(ctx: Context, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """x weight^T + bias."""
    if weight.type.rank == 1:
        total = matmul(ctx, x, weight)
        return total if bias is None else ctx.emit(ew.Add(), total, bias)
    if x.type.dtype in BYTES and x.type.rank > 1:
        total = _product(ctx, x, weight, transpose_b=True)
        return total if bias is None else ctx.emit(ew.Add(), total, bias)
    if bias is not None and bias.shape != weight.shape[:1]:
        return ctx.emit(ew.Add(), ctx.emit(Linear(), x, weight), bias)
    return ctx.emit(Linear(), x, weight, *([] if bias is None else [bias]))


def addmm(
    ctx: Context, base: Value, a: Value, b: Value, *, beta: Scalar = 1, alpha: Scalar = 1
) -> Value:
    """beta * base + alpha * a b."""
    kind = ctx.dtype()
    product = _product(ctx, a, b)
    if alpha != 1:
        product = ctx.emit(ew.Mul(), product, ctx.number(alpha, kind))
    # beta 0 means that the base is not read at all, not even its nan.
    if beta == 0:
        return product
    if beta != 1:
        base = ctx.emit(ew.Mul(), base, ctx.number(beta, kind))
    return ctx.emit(ew.Add(), product, base)


def _listed(item: int | Sequence[int], rank: int) -> tuple[int, ...]:
    values = [item] if isinstance(item, int) else list(item)
    return tuple(values * rank if len(values) == 1 else values)


def convolution(
    ctx: Context,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    """Convolution and its transpose over 1 to 3 axes; x may lack the batch axis."""
    rank = weight.type.rank - 2
    require(1 <= rank <= 3, f"a convolution over {rank} axes is not supported")
    batched = x.type.rank == weight.type.rank
    source = x if batched else ctx.unsqueeze(x, 0)
    pairs = tuple((width, width) for width in _listed(padding, rank))
    steps, gaps = _listed(stride, rank), _listed(dilation, rank)
    op: Conv | ConvTranspose
    if transposed:
        extra = _listed(output_padding, rank)
        op = ConvTranspose(steps, pairs, extra, gaps, groups)
    else:
        op = Conv(steps, pairs, gaps, groups)
    factors = [source, weight, *([] if bias is None else [bias])]
    if x.type.dtype in BYTES:  # torch's sums wrap in the dtype of the factors; ours are i32
        wide = [ctx.cast(value, DType.I32) for value in factors]
        result = ctx.cast(ctx.emit(op, *wide), x.type.dtype)
    else:
        result = ctx.emit(op, *factors)
    return result if batched else ctx.reshape(result, result.shape[1:])


def attention(
    ctx: Context,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Scaled dot-product attention; masks are bool (True attends) or added."""
    require(dropout == 0, f"{RANDOM}; call model.eval() before the export")
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    shape = (
        (*broadcast(q.shape[:-2], k.shape[:-2]), q.shape[-2], v.shape[-1])
        if not enable_gqa
        else None
    )
    q, k, v = _alike(ctx, q, k, v, enable_gqa)
    extra = (
        []
        if mask is None
        else [mask if mask.type.dtype is DType.BOOL else ctx.cast(mask, q.type.dtype)]
    )
    result = ctx.emit(Attention(factor, causal), q, k, v, *extra)
    return result if shape is None else ctx.reshape(result, shape)


def _alike(ctx: Context, q: Value, k: Value, v: Value, grouped: bool) -> tuple[Value, Value, Value]:
    """Operands of one rank of at least 3, their leading axes broadcast."""
    rank = max(3, q.type.rank, k.type.rank, v.type.rank)
    q, k, v = (ctx.reshape(x, (*[1] * (rank - x.type.rank), *x.shape)) for x in (q, k, v))
    heads = -3 if grouped else -2
    lead = broadcast(*(x.shape[:heads] for x in (q, k, v)))
    return (
        ctx.expand(q, (*lead, *q.shape[heads:])),
        ctx.expand(k, (*lead, *k.shape[heads:])),
        ctx.expand(v, (*lead, *v.shape[heads:])),
    )


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.matmul.default: matmul,
    aten.mm.default: matmul,
    aten.bmm.default: matmul,
    aten.mv.default: matmul,
    aten.dot.default: matmul,
    aten.linear.default: linear,
    aten.addmm.default: addmm,
    aten.baddbmm.default: addmm,
    aten.convolution.default: convolution,
    aten.scaled_dot_product_attention.default: attention,
}
