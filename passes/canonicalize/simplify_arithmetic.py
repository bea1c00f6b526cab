"""Identities of two-operand arithmetic that keep every bit, -0.0 and nan included."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optc.ir.constant import splat
from optc.ir.dtype import DType, Kind
from optc.ir.graph import Node
from optc.ir.module import Module
from optc.ir.ops import BINARY, Expand, Op, Reshape, ew
from optc.ir.types import broadcast
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import fit, made_by, number
from optc.passes.rewrite import Answer, Miss, Rule, Rules, Site, rewrite
from optc.passes.weights import known, negated

_COMMUTATIVE = (
    ew.Add, ew.Mul, ew.Maximum, ew.Minimum, ew.BitwiseAnd, ew.BitwiseOr, ew.BitwiseXor, ew.Equal,
    ew.NotEqual,
)  # fmt: skip
_SMALL = 1 << 20  # elements of a constant that is worth being negated
_IDEMPOTENT = (ew.Maximum, ew.Minimum, ew.BitwiseAnd, ew.BitwiseOr)


@dataclass(frozen=True)
class SimplifyArithmetic(Pass):
    """Remove arithmetic that changes nothing: x * 1, x - 0, x & true, -(-x) and so on.

    Brings what stays into one form, which other passes rely on: constants on the right, x - c as
    x + (-c), x / 2 as x * 0.5, operands not broadcast before the op does it. `x + 0.0` stays, as
    it turns -0.0 into 0.0, and so does `x * 0.0`, as nan * 0 is nan.
    """

    name = "simplify-arithmetic"
    effect = Effect.EXACT

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module without idle arithmetic."""
        return rewrite(module, _RULES, ctx, code="N0302")


def _constant_right(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    if site.constant_of(a) is None or site.constant_of(b) is not None:
        return None
    if isinstance(node.op, ew.Maximum | ew.Minimum) and not number(site, a):
        return None  # which zero of maximum(-0.0, 0.0) wins depends on the order
    return site.emit(node.op, b, a)


def _narrow_operands(node: Node, site: Site) -> Answer:
    """Take operands as they are before Expand: the op broadcasts by itself."""
    for place, value in enumerate(node.inputs):
        maker = made_by(site, value, Expand, Reshape)
        item = site.constant_of(value)
        if item is not None and item.splat is not None and value.type.rank:
            new = site.constant(splat(item.splat, value.type.with_shape(())), value.hint)
        elif maker is not None and (isinstance(maker.op, Expand) or _only_leads(maker, node)):
            new = maker.inputs[0]
        else:
            continue
        inputs = (*node.inputs[:place], new, *node.inputs[place + 1 :])
        if broadcast(*(item.shape for item in inputs)) == node.output.shape:
            return site.emit(node.op, *inputs)
    return None


def _only_leads(reshape: Node, user: Node) -> bool:
    """Whether a reshape only puts axes of extent 1 in front of an operand that is broadcast.

    Not of one in full size: all operands of that size keep one shape, so that they stay equal.
    """
    old, new = reshape.inputs[0].shape, reshape.output.shape
    extra = len(new) - len(old)
    broadcasts = reshape.output.type.elements < user.output.type.elements
    return broadcasts and extra > 0 and new == (1,) * extra + old


def _add(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    c = number(site, b)
    if c == 0 and (not b.type.dtype.is_float or math.copysign(1.0, c) < 0):
        return fit(site, a, node.output.type)
    for x, y in ((a, b), (b, a)):
        if (negation := made_by(site, y, ew.Neg)) is not None:
            return site.emit(ew.Sub(), x, negation.inputs[0])
    return None


def _sub(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    if b.type.dtype.is_float and b.type.elements <= _SMALL and known(site, b):
        return site.emit(ew.Add(), a, site.constant(negated(site, b), b.hint))
    if (negation := made_by(site, b, ew.Neg)) is not None:
        return site.emit(ew.Add(), a, negation.inputs[0])
    if a is b and node.output.type.dtype.is_integer:
        return site.constant(splat(0, node.output.type))
    return None


def _mul(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    c = number(site, b)
    if c == 1:
        return fit(site, a, node.output.type)
    if c == -1:
        return site.emit(ew.Neg(), fit(site, a, node.output.type))
    if c == 0:
        if b.type.dtype.is_float:
            return Miss("0 * nan is nan")
        return site.constant(splat(0, node.output.type))
    return None


def _div(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    if number(site, a) == 1 and a.type.elements == 1:
        return site.emit(ew.Reciprocal(), fit(site, b, node.output.type))
    c = number(site, b)
    if c is None or c == 0 or not math.isfinite(c):
        return None
    inverse = 1.0 / c
    if math.frexp(c)[0] not in (0.5, -0.5) or not 2.0**-14 <= abs(inverse) <= 2.0**15:
        return None  # exact only for powers of two, which must be normal numbers of f16 as well
    factor = site.constant(splat(inverse, b.type), b.hint)
    return site.emit(ew.Mul(), a, factor)


def _pow(node: Node, site: Site) -> Answer:
    exponent = number(site, node.inputs[1])
    if exponent == 1:
        return fit(site, node.inputs[0], node.output.type)
    return site.constant(splat(1, node.output.type)) if exponent == 0 else None


def _bitwise(node: Node, site: Site) -> Answer:
    """x & all ones, x | 0 and x ^ 0."""
    a, b = node.inputs
    item = site.constant_of(b)
    if item is None or item.splat is None:
        return None
    idle = _all_ones(b.type.dtype) if isinstance(node.op, ew.BitwiseAnd) else 0
    return fit(site, a, node.output.type) if item.splat == idle else None


def _all_ones(dtype: DType) -> int:
    return {Kind.BOOL: 1, Kind.SIGNED: -1}.get(dtype.kind, (1 << dtype.bits) - 1)


def _same_operands(node: Node, site: Site) -> Answer:
    a, b = node.inputs
    return a if a is b else None


def _limit(node: Node, site: Site) -> Answer:
    """maximum(x, c) is a clamp. Not at 0: which zero of maximum(-0.0, 0.0) wins is not agreed."""
    a, b = node.inputs
    c = number(site, b)
    if not c or math.isnan(c) or a.type != node.output.type or not a.type.dtype.is_float:
        return None
    low = isinstance(node.op, ew.Maximum)
    return site.emit(ew.Clamp(low=float(c)) if low else ew.Clamp(high=float(c)), a)


def _where(node: Node, site: Site) -> Answer:
    condition, a, b = node.inputs
    item = site.constant_of(condition)
    if item is not None and item.splat is not None:
        return fit(site, a if item.splat else b, node.output.type)
    if a is b:
        return fit(site, a, node.output.type)
    inverse = made_by(site, condition, ew.LogicalNot)
    if inverse is not None and inverse.inputs[0].type == condition.type:
        return site.emit(ew.Where(), inverse.inputs[0], b, a)
    return None


_OWN: dict[type[Op], tuple[Rule, ...]] = {
    ew.Add: (_add,),
    ew.Sub: (_sub,),
    ew.Mul: (_mul,),
    ew.Div: (_div,),
    ew.Pow: (_pow,),
    ew.Maximum: (_limit,),
    ew.Minimum: (_limit,),
    ew.BitwiseAnd: (_bitwise,),
    ew.BitwiseOr: (_bitwise,),
    ew.BitwiseXor: (_bitwise,),
}


def _rules_of(op: type[Op]) -> tuple[Rule, ...]:
    rules: list[Rule] = [_narrow_operands]
    if op in _COMMUTATIVE:
        rules.append(_constant_right)
    if op in _IDEMPOTENT:
        rules.append(_same_operands)
    return (*rules, *_OWN.get(op, ()))


_RULES: Rules = {**{op: _rules_of(op) for op in BINARY}, ew.Where: (_narrow_operands, _where)}
