"""Algebra over the reals: the same formula, rounded elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.module import Module
from optc.ir.ops import ReduceMean, ReduceSum, ew
from optc.ir.types import broadcast
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import fit, made_by, number, reshaped
from optc.passes.rewrite import Answer, Miss, Rules, Site, rewrite
from optc.passes.weights import known, numbers, rounded

_SMALL = 1 << 20  # elements of a constant that is worth being computed anew
_WIDE = (DType.F32, DType.F64)  # in half precision a reciprocal or a sum of constants loses digits


@dataclass(frozen=True)
class SimplifyRounding(Pass):
    """Algebra that moves roundings: x / c as x * (1 / c), powers as products, constants joined.

    Also x + 0.0, maximum(x, 0) as relu, x / sqrt(y) as x * rsqrt(y) where y is the smaller one.
    """

    name = "simplify-rounding"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with cheaper arithmetic."""
        return rewrite(module, _RULES, ctx, code="N0302")


def _add_zero(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    return fit(site, a, node.output.type) if number(site, b) == 0 else None


def _zero_minus(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    return site.emit(ew.Neg(), fit(site, b, node.output.type)) if number(site, a) == 0 else None


def _join_constants(node: Node, site: Site) -> Answer:
    """(x + c) + d = x + (c + d), and the same for products."""
    x, d = node.inputs
    inner = made_by(site, x, type(node.op))
    if inner is None or d.type.dtype not in _WIDE or site.uses(x) > 1:
        return None
    c = inner.inputs[1]
    if not known(site, c, d) or inner.inputs[0].type != node.output.type:
        return None
    elements = np.prod(broadcast(c.shape, d.shape), dtype=int)
    if elements > max(c.type.elements, d.type.elements, 1) or elements > _SMALL:
        return None
    left, right = numbers(site, c), numbers(site, d)
    joined = left + right if isinstance(node.op, ew.Add) else left * right
    return site.emit(node.op, inner.inputs[0], site.constant(rounded(joined, d.type.dtype), d.hint))


def _divide(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    if (root := made_by(site, b, ew.Sqrt)) is not None and b.type.elements < a.type.elements:
        return site.emit(ew.Mul(), a, site.emit(ew.Rsqrt(), root.inputs[0]))
    if b.type.dtype not in _WIDE or not known(site, b) or b.type.elements > _SMALL:
        return None
    with np.errstate(divide="ignore"):
        inverse = 1.0 / numbers(site, b)
    tiny = np.finfo(b.type.dtype.storage).tiny
    if not np.all(np.isfinite(inverse)) or np.any(np.abs(inverse) < tiny):
        return Miss("the divisor has no reciprocal in this precision")
    return site.emit(ew.Mul(), a, site.constant(rounded(inverse, b.type.dtype), b.hint))


def _power(node: Node, site: Site) -> Answer:
    base, exponent = node.inputs
    power = number(site, exponent)
    if base.type != node.output.type or not base.type.dtype.is_float:
        return None
    match power:
        case 2:
            return site.emit(ew.Mul(), base, base)
        case 3:
            return site.emit(ew.Mul(), site.emit(ew.Mul(), base, base), base)
        case 0.5:
            return site.emit(ew.Sqrt(), base)
        case -0.5:
            return site.emit(ew.Rsqrt(), base)
        case -1:
            return site.emit(ew.Reciprocal(), base)
    return None


def _reciprocal(node: Node, site: Site) -> Answer:
    root = made_by(site, node.inputs[0], ew.Sqrt)
    return None if root is None else site.emit(ew.Rsqrt(), root.inputs[0])


def _maximum(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    if site.constant_of(a) is not None and site.constant_of(b) is None:
        return site.emit(node.op, b, a)
    if number(site, b) != 0 or a.type != node.output.type:
        return None
    return site.emit(ew.Relu() if isinstance(node.op, ew.Maximum) else ew.Clamp(high=0.0), a)


def _clamp(node: Node, site: Site) -> Answer:
    op = node.op
    assert isinstance(op, ew.Clamp)
    if op.low == 0 and op.high is None:
        return site.emit(ew.Relu(), node.inputs[0])
    return None


def _reduce_nothing(node: Node, site: Site) -> Answer:
    x = node.inputs[0]
    if x.type.elements != node.output.type.elements:
        return None
    return reshaped(site, x, node.output.shape)


_RULES: Rules = {
    ew.Add: (_add_zero, _join_constants),
    ew.Sub: (_zero_minus,),
    ew.Mul: (_join_constants,),
    ew.Div: (_divide,),
    ew.Pow: (_power,),
    ew.Reciprocal: (_reciprocal,),
    ew.Maximum: (_maximum,),
    ew.Minimum: (_maximum,),
    ew.Clamp: (_clamp,),
    **dict.fromkeys((ReduceSum, ReduceMean), (_reduce_nothing,)),
}
