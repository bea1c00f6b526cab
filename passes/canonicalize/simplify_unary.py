"""Identities of one-operand ops that keep every bit: cast chains, clamps of clamps, idempotents."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.dtype import DType, Kind
from optc.ir.graph import Node
from optc.ir.module import Module
from optc.ir.ops import Op, ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import made_by
from optc.passes.rewrite import Answer, Rules, Site, rewrite

_IDEMPOTENT = (ew.Abs, ew.Relu, ew.Sign)
_INVOLUTION = (ew.Neg, ew.BitwiseNot)
_INTEGRAL = (ew.Ceil, ew.Floor, ew.Round, ew.Trunc)
# Bits of the significand, and of the exponent: what a float holds exactly.
_FLOAT = {DType.F64: (53, 11), DType.F32: (24, 8), DType.F16: (11, 5), DType.BF16: (8, 8)}


@dataclass(frozen=True)
class SimplifyUnary(Pass):
    """Join chains of one-operand ops: casts that lose nothing, clamps, relus, minus of minus."""

    name = "simplify-unary"
    effect = Effect.EXACT

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with chains joined."""
        return rewrite(module, _RULES, ctx, code="N0302")


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    if wide is narrow or narrow is DType.BOOL:
        return True
    if wide is DType.BOOL:
        return False
    if wide.is_float and narrow.is_float:
        return all(a >= b for a, b in zip(_FLOAT[wide], _FLOAT[narrow], strict=True))
    if wide.is_float:
        return narrow.bits <= _FLOAT[wide][0] and wide is not DType.F16
    if narrow.is_float:
        return False
    if wide.kind is narrow.kind:
        return wide.bits >= narrow.bits
    return wide.kind is Kind.SIGNED and wide.bits > narrow.bits


def _cast(node: Node, site: Site) -> Answer:
    source, target = node.inputs[0], node.output.type.dtype
    if source.type.dtype is target:
        return source
    inner = made_by(site, source, ew.Cast)
    if inner is None or not holds(source.type.dtype, inner.inputs[0].type.dtype):
        return None
    if inner.inputs[0].type.dtype.is_float and target.is_integer:
        return None  # what a float beyond the integer's range becomes differs between dtypes
    return site.emit(node.op, inner.inputs[0])


def _again(node: Node, site: Site) -> Answer:
    """f(f(x)) = f(x)."""
    x = node.inputs[0]
    return x if made_by(site, x, type(node.op)) is not None else None


def _back(node: Node, site: Site) -> Answer:
    """f(f(x)) = x."""
    inner = made_by(site, node.inputs[0], type(node.op))
    return None if inner is None else inner.inputs[0]


def _integral(node: Node, site: Site) -> Answer:
    return node.inputs[0] if made_by(site, node.inputs[0], *_INTEGRAL) is not None else None


def _abs(node: Node, site: Site) -> Answer:
    if (inner := made_by(site, node.inputs[0], ew.Neg)) is not None:
        return site.emit(ew.Abs(), inner.inputs[0])
    return None


def _relu(node: Node, site: Site) -> Answer:
    x = node.inputs[0]
    return x if made_by(site, x, ew.Abs, ew.Sigmoid, ew.Exp, ew.Sqrt) is not None else None


def _not(node: Node, site: Site) -> Answer:
    x = node.inputs[0]
    inner = made_by(site, x, ew.LogicalNot, ew.Equal, ew.NotEqual)
    match inner:
        case Node(op=ew.LogicalNot()) if inner.inputs[0].type.dtype is DType.BOOL:
            return inner.inputs[0]
        case Node(op=ew.Equal()):
            return site.emit(ew.NotEqual(), *inner.inputs)
        case Node(op=ew.NotEqual()):
            return site.emit(ew.Equal(), *inner.inputs)
    return None


def _clamp(node: Node, site: Site) -> Answer:
    x, op = node.inputs[0], node.op
    assert isinstance(op, ew.Clamp)
    if op.low is None and op.high is None:
        return x
    inner = made_by(site, x, ew.Clamp, ew.Relu)
    if inner is None or not x.type.dtype.is_float:
        return None  # clamping integers to fractions rounds in between
    low, high = _limits(inner.op)
    lows = [limit for limit in (low, op.low) if limit is not None]
    highs = [limit for limit in (high, op.high) if limit is not None]
    joined = ew.Clamp(max(lows, default=None), min(highs, default=None))
    if joined.low is not None and joined.high is not None and joined.low > joined.high:
        return None
    return site.emit(joined, inner.inputs[0])


def _limits(op: Op) -> tuple[float | int | None, float | int | None]:
    return (op.low, op.high) if isinstance(op, ew.Clamp) else (0, None)


_RULES: Rules = {
    **dict.fromkeys(_IDEMPOTENT, (_again,)),
    **dict.fromkeys(_INVOLUTION, (_back,)),
    **dict.fromkeys(_INTEGRAL, (_integral,)),
    ew.Abs: (_again, _abs),
    ew.Relu: (_again, _relu),
    ew.Cast: (_cast,),
    ew.LogicalNot: (_not,),
    ew.Clamp: (_clamp,),
}
