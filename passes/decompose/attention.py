"""Attention as two products and a softmax between them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optc.ir.constant import constant
from optc.ir.dtype import DType
from optc.ir.graph import Node, Value
from optc.ir.ops import Attention, MatMul, Op, ReduceMax, Softmax, ew
from optc.passes.decompose.activations import like
from optc.passes.decompose.normalizations import in_f32
from optc.passes.matching import reshaped
from optc.passes.rewrite import Answer, Rule, Site


def _attention(node: Node, site: Site) -> Answer:
    """softmax(scale * q k^T + mask) v, grouped heads by broadcasting."""
    op, (q, k, v) = node.op, node.inputs[:3]
    assert isinstance(op, Attention)
    *batch, heads, rows, _ = q.shape
    groups, columns = k.shape[-3], k.shape[-2]
    split = heads != groups
    if split:
        q = reshaped(site, q, (*batch, groups, heads // groups, *q.shape[-2:]))
        k, v = (reshaped(site, x, (*batch, groups, 1, *x.shape[-2:])) for x in (k, v))
    scaled = site.emit(ew.Mul(), q, like(site, q, op.scale))
    scores = site.emit(MatMul(transpose_b=True), scaled, k)
    scores = reshaped(site, scores, (*batch, heads, rows, columns))
    weights = _weights(node, site, scores)
    if split:
        weights = reshaped(site, weights, (*batch, groups, heads // groups, rows, columns))
    return reshaped(site, site.emit(MatMul(), weights, v), node.output.shape)


def _weights(node: Node, site: Site, scores: Value) -> Value:
    assert isinstance(node.op, Attention)
    rows, columns = scores.shape[-2:]
    low = like(site, scores, float("-inf"))
    for mask in node.inputs[3:]:
        if mask.type.dtype is DType.BOOL:
            scores = site.emit(ew.Where(), mask, scores, low)
        else:
            scores = site.emit(ew.Add(), scores, mask)
    if node.op.causal:
        ahead = site.constant(constant(np.tri(rows, columns, dtype=bool)), "causal")
        scores = site.emit(ew.Where(), ahead, scores, low)
    last = scores.type.rank - 1
    if len(node.inputs) == 3:
        return site.emit(Softmax(last), scores)  # every row sees at least its first column
    blind = site.emit(ew.Equal(), site.emit(ReduceMax((last,), True), scores), low)
    zero = like(site, scores, 0.0)
    weights = site.emit(Softmax(last), site.emit(ew.Where(), blind, zero, scores))
    return site.emit(ew.Where(), blind, zero, weights)


attention = in_f32(_attention)
RULES: Mapping[type[Op], Rule] = {Attention: attention}
