"""What the raised norms share: taking in weights and biases, and dropping detours through f32."""

from __future__ import annotations

from dataclasses import replace

from optc.ir.constant import splat
from optc.ir.dtype import DType
from optc.ir.graph import Node, Value
from optc.ir.ops import LayerNorm, Op, RmsNorm, ew
from optc.passes.matching import made_by
from optc.passes.rewrite import Answer, Rule, Site
from optc.passes.weights import in_shape

_HALF = (DType.F16, DType.BF16)


def is_last(axes: tuple[int, ...], rank: int) -> bool:
    """Whether `axes` are the last ones of a tensor."""
    return axes == tuple(range(rank - len(axes), rank))


def take_weight(kind: type[LayerNorm | RmsNorm]) -> Rule:
    """norm(x) * w becomes norm(x, w), w being a constant along the normalised axes."""

    def rule(node: Node, site: Site) -> Answer:
        for value, weight in (node.inputs, node.inputs[::-1]):
            norm = made_by(site, value, kind)
            if norm is None or len(norm.inputs) > 1 or site.uses(value) > 1:
                continue
            fitted = _along(site, norm, weight)
            if fitted is not None and value.type == node.output.type:
                return site.emit(norm.op, norm.inputs[0], fitted)
        return None

    return rule


def take_bias(node: Node, site: Site) -> Answer:
    """layer_norm(x, w) + b becomes layer_norm(x, w, b); w is ones if there is none."""
    value, bias = node.inputs
    norm = made_by(site, value, LayerNorm)
    if norm is None or len(norm.inputs) > 2 or site.uses(value) > 1:
        return None
    fitted = _along(site, norm, bias)
    if fitted is None or value.type != node.output.type:
        return None
    if len(norm.inputs) == 2:
        return site.emit(norm.op, *norm.inputs, fitted)
    ones = site.constant(splat(1, fitted.type), "weight")
    return site.emit(norm.op, norm.inputs[0], ones, fitted)


def _along(site: Site, norm: Node, value: Value) -> Value | None:
    """A constant in the shape of the normalised axes, or None if it does not have it."""
    item = site.constant_of(value)
    assert isinstance(norm.op, LayerNorm | RmsNorm)
    shape = norm.inputs[0].shape[-norm.op.axes :]
    if item is None or item.type.dtype is not norm.inputs[0].type.dtype:
        return None
    if item.splat is not None and all(dim == 1 for dim in item.type.shape):
        return site.constant(splat(item.splat, item.type.with_shape(shape)), value.hint)
    extra = item.type.rank - len(shape)
    if extra < 0 or item.type.shape != (1,) * extra + shape:
        return None
    return site.constant(in_shape(item, shape), value.hint) if extra else value


def without_upcast(*kinds: type[Op]) -> Rule:
    """cast(op(cast(x))) through f32 is op(x): kernels compute half precision in f32 anyway."""

    def rule(node: Node, site: Site) -> Answer:
        inner = made_by(site, node.inputs[0], *kinds)
        dtype = node.output.type.dtype
        if inner is None or dtype not in _HALF or len(inner.inputs) > 1:
            return None
        cast = made_by(site, inner.inputs[0], ew.Cast)
        if cast is None or cast.inputs[0].type.dtype is not dtype or site.uses(inner.output) > 1:
            return None
        return site.emit(replace(inner.op), cast.inputs[0])

    return rule
