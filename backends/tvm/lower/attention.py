"""Attention as stages: scores, their maximum, exponentials, their sum, the weighted values."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te
from tvm.ir import Expr

from optc.backends.tvm.lower import functions as fn
from optc.backends.tvm.lower.element import (
    choose,
    compute,
    const,
    i32,
    lowest,
    pinned,
    quotient,
    reader,
    wide,
)
from optc.backends.tvm.lower.reduction import fold, quiet_max_of
from optc.ir.dtype import DType
from optc.ir.ops import Attention
from optc.ir.types import TensorType


def attention(
    op: Attention, tensors: Sequence[te.Tensor], types: Sequence[TensorType]
) -> Sequence[te.Tensor]:
    """A row that sees nothing has no finite score: its weights are 0 and not 0 / 0."""
    (q, k, v), (result,), dtype = types[:3], op.infer(*types), wide(types[0].dtype)
    shape = (*q.shape[:-1], k.shape[-2])
    scores = _scores(op, tensors, types, TensorType(shape, dtype))
    last, type = len(shape) - 1, TensorType(shape, dtype)
    peak = fold("score_max", type, [last], scores, quiet_max_of(dtype), True)
    minus, zero = lowest(dtype), const(0.0, dtype)

    def weight(*index: Expr) -> Expr:
        top = peak(*index[:-1], i32(0))
        return fn.exp(scores(*index) - choose(top == minus, zero, top), dtype)

    weights = te.compute(shape, weight, name="weights")
    total = fold("weight_sum", type, [last], weights, te.sum, False)
    values, key = reader(tensors[2], v), te.reduce_axis((0, k.shape[-2]), "t")

    def mixed(*index: Expr) -> Expr:
        *batch, head, row, column = index
        place = (*batch, _key_head(head, q, k), key.var, column)
        return te.sum(weights(*batch, head, row, key.var) * values(*place), axis=key)

    mix = te.compute(result.shape, mixed, name="mix")

    def element(*index: Expr) -> Expr:
        scale = total(*index[:-1])
        return choose(scale == zero, zero, mix(*index) / scale)

    return [compute("attention", result, element)]


def _key_head(head: Expr, q: TensorType, k: TensorType) -> Expr:
    return quotient(head, q.shape[-3] // k.shape[-3], q.shape[-3])


def _scores(
    op: Attention, tensors: Sequence[te.Tensor], types: Sequence[TensorType], type: TensorType
) -> te.Tensor:
    (q, k), dtype = types[:2], type.dtype
    query, keys = reader(tensors[0], q), reader(tensors[1], k)
    inner = te.reduce_axis((0, q.shape[-1]), "d")

    def product(*index: Expr) -> Expr:
        *batch, head, row, key = index
        a = query(*batch, head, row, inner.var)
        return te.sum(a * keys(*batch, _key_head(head, q, k), key, inner.var), axis=inner)

    products = te.compute(type.shape, product, name="query_key")
    masks = [(reader(t, m), m) for t, m in zip(tensors[3:], types[3:], strict=True)]
    hidden = lowest(dtype)

    def element(*index: Expr) -> Expr:
        score = products(*index) * const(op.scale, dtype)
        for read, mask in masks:
            item = read(*pinned(index, mask.shape))
            score = choose(item, score, hidden) if mask.dtype is DType.BOOL else score + item
        return choose(index[-1] > index[-2], hidden, score) if op.causal else score

    return te.compute(type.shape, element, name="scores")
