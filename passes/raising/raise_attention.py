"""Attention from its two products and the softmax between them (Vaswani et al. 2017, 3.2.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import Attention, Expand, MatMul, Op, Reshape, Softmax, Transpose, ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import either, made_by, number, reshaped, scaled
from optc.passes.raising.masks import Hidden, hidden_by, lowest
from optc.passes.rewrite import Answer, Miss, Rules, Site, rewrite

_CODE = "N0306"


@dataclass(frozen=True)
class RaiseAttention(Pass):
    """Recognise attention: softmax(scale * q k^T + mask) v.

    The scale may stand on the scores, on q, on k or on both; the mask may be added or filled in
    with `where`. A constant mask that hides exactly what lies ahead becomes `causal`, one that
    hides nothing goes, and one that was broadcast is taken as it was before. Keys and values that
    are repeated for groups of heads are read unrepeated, also by attention that the model spells
    as such. A row whose scores are all minus infinity gives 0 and not nan. Expects products with
    their batch axes (simplify-matmul) and softmax raised.
    """

    name = "raise-attention"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with attention ops."""
        return rewrite(module, _RULES, ctx, code=_CODE)


@dataclass(frozen=True, slots=True)
class _Scores:
    """softmax's input: `product` * scale, plus `mask` or with `mask` filled in."""

    product: Node
    scale: float
    mask: Value | None = None


def _attention(node: Node, site: Site) -> Answer:
    weights, v = node.inputs
    softmax = made_by(site, weights, Softmax)
    if (
        softmax is None
        or type(softmax.op) is not Softmax
        or softmax.op.axis != weights.type.rank - 1
    ):
        return None
    scores = _scores(site, softmax.inputs[0])
    if scores is None:
        return None
    if site.uses(weights) > 1:
        return Miss("the attention weights have other users")
    return _raised(node, site, scores, _upright(node, site, v))


def _upright(node: Node, site: Site, matrix: Value) -> Value:
    """The right operand of a product, as [..., K, N]."""
    assert isinstance(node.op, MatMul)
    return _swapped(site, matrix) if node.op.transpose_b else matrix


def _swapped(site: Site, value: Value) -> Value:
    rank = value.type.rank
    return site.emit(Transpose((*range(rank - 2), rank - 1, rank - 2)), value)


def _raised(node: Node, site: Site, scores: _Scores, v: Value) -> Answer:
    q, q_scale = scaled(site, scores.product.inputs[0])
    k, k_scale = scaled(site, scores.product.inputs[1])
    assert isinstance(scores.product.op, MatMul)
    if not scores.product.op.transpose_b:
        k = _swapped(site, k)
    k, v = _unrepeated(site, k, v, q)
    scale = scores.scale * q_scale * k_scale
    if q.type.rank < 3:
        return Miss("it has no axis of heads")
    masks: tuple[Value, ...] = ()
    hidden = Hidden.NONE
    if scores.mask is not None:
        hidden = hidden_by(site, scores.mask, q.shape[-2], k.shape[-2])
        masks = (scores.mask,) if hidden is Hidden.SOME else ()
    op = Attention(scale, hidden is Hidden.LATER)
    reason = _misfit(op, node, q, k, v, *masks)
    return Miss(reason) if reason else site.emit(op, q, k, v, *masks)


def _misfit(op: Op, node: Node, *inputs: Value) -> str:
    """Why the op does not take these inputs; empty when it does."""
    try:
        (type,) = op.infer(*(value.type for value in inputs))
    except ValueError as problem:
        return str(problem)
    return "" if type == node.output.type else f"it would give {type}, not {node.output.type}"


def _scores(site: Site, value: Value) -> _Scores | None:
    """Read softmax's input, looking under scale and mask in either order."""
    bare = _bare(site, value)
    if bare is not None:
        return bare
    plain, scale = scaled(site, value)
    node = made_by(site, plain, ew.Add, ew.Where)
    if node is None:
        return None
    if isinstance(node.op, ew.Where):
        return _filled(site, node, scale)
    for inner, mask in either(node):
        found = _bare(site, inner)
        if found is None or scale != 1.0 or inner.type != plain.type:
            continue
        return _Scores(found.product, found.scale, mask)
    return None


def _bare(site: Site, value: Value) -> _Scores | None:
    """A product, scaled or not, with nothing added: one mask is all that attention takes."""
    plain, scale = scaled(site, value)
    product = made_by(site, plain, MatMul)
    return None if product is None else _Scores(product, scale)


def _filled(site: Site, node: Node, scale: float) -> _Scores | None:
    """where(condition, scores, low), or the other way round: adds `low` to what is hidden."""
    condition, first, second = node.inputs
    for kept, low, visible in ((first, second, True), (second, first, False)):
        hidden = number(site, low)
        if hidden is None or hidden > lowest(low.type.dtype) or scale != 1.0:
            continue
        found = _bare(site, kept)
        if found is None or kept.type != node.output.type:
            continue
        zero = site.builder.splat(0.0, low.type.with_shape(()), "visible")
        low = site.builder.splat(hidden, low.type.with_shape(()), "hidden")
        pair = (zero, low) if visible else (low, zero)
        return _Scores(found.product, found.scale, site.emit(ew.Where(), condition, *pair))
    return None


def _unrepeated(site: Site, k: Value, v: Value, q: Value) -> tuple[Value, Value]:
    """Keys and values before they were repeated for the heads of a group, if both were."""
    sources = _unrepeated_once(site, k), _unrepeated_once(site, v)
    if sources[0] is None or sources[1] is None or q.type.rank < 3:
        return k, v
    fits = sources[0].shape[-3] == sources[1].shape[-3]
    return (sources[0], sources[1]) if fits else (k, v)


def _unrepeated_once(site: Site, value: Value) -> Value | None:
    """[..., G, T, D] behind reshape(expand([..., G, 1, T, D] to [..., G, R, T, D]))."""
    outer = made_by(site, value, Reshape)
    inner = None if outer is None else made_by(site, outer.inputs[0], Expand)
    if inner is None or value.type.rank < 3:
        return None
    old, wide = inner.inputs[0].shape, inner.output.shape
    if len(old) != len(wide) or len(wide) != value.type.rank + 1 or old[-3] != 1:
        return None
    repeats_only = (*wide[:-3], 1, *wide[-2:]) == old
    merged = (*wide[:-4], wide[-4] * wide[-3], *wide[-2:]) == value.shape
    if not repeats_only or not merged:
        return None
    return reshaped(site, inner.inputs[0], (*old[:-3], *old[-2:]))


def _tidied(node: Node, site: Site) -> Answer:
    """Attention that the model spelled as such: repeated keys, masks that say little."""
    q, k, v, *masks = node.inputs
    assert isinstance(node.op, Attention)
    source, values = _unrepeated(site, k, v, q)
    if source is not k:
        return site.emit(node.op, q, source, values, *masks)
    if not masks:
        return None
    hidden = hidden_by(site, masks[0], q.shape[-2], k.shape[-2])
    if hidden is not Hidden.SOME:
        causal = node.op.causal or hidden is Hidden.LATER
        return site.emit(replace(node.op, causal=causal), q, k, v)
    # Attention broadcasts by itself: one row for all queries is read once a key.
    wide = made_by(site, masks[0], Expand)
    return None if wide is None else site.emit(node.op, q, k, v, wide.inputs[0])


_RULES: Rules = {MatMul: (_attention,), Attention: (_tidied,)}
