"""ATen rules on complex tensors: pairs of real ones while a graph is taken, never in the IR.

At the borders of the module, and in view_as_real, a pair is a tensor with a trailing axis of 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.aten.contraction import matmul as real_matmul
from optc.ir.capture.aten.reduction import reduce_as
from optc.ir.capture.context import Complex, Context, require
from optc.ir.constant import Scalar
from optc.ir.graph import Value
from optc.ir.ops import Op, ReduceMean, ReduceSum, ew

aten = torch.ops.aten
Number = Complex | Value | Scalar | complex


def to_pair(ctx: Context, x: Complex) -> Value:
    """The pair as one tensor with a trailing axis of 2."""
    rank = x.re.type.rank
    return ctx.concat([ctx.unsqueeze(part, rank) for part in (x.re, x.im)], rank)


def from_pair(ctx: Context, x: Value) -> Complex:
    """The reverse of `to_pair`."""
    last = x.type.rank - 1
    parts = (ctx.slice(x, last, place, place + 1) for place in range(2))
    re, im = (ctx.reshape(part, x.shape[:-1]) for part in parts)
    return Complex(re, im)


def _complex(ctx: Context, x: Number) -> Complex:
    """Anything as a pair in the element type of the result."""
    kind = ctx.dtype()
    if isinstance(x, Complex):
        return Complex(ctx.cast(x.re, kind), ctx.cast(x.im, kind))
    if isinstance(x, Value):
        real = ctx.cast(x, kind)
        return Complex(real, ctx.zeros_like(real))
    number = complex(x)
    return Complex(ctx.number(number.real, kind), ctx.number(number.imag, kind))


def _is_real(x: Number) -> bool:
    return isinstance(x, Value) or (not isinstance(x, Complex) and complex(x).imag == 0)


def partwise(rule: Callable[..., Any]) -> Callable[..., Any]:
    """An op that treats real and imaginary parts alike: the rule runs on each."""

    def run(ctx: Context, *args: Any, **kwargs: Any) -> Any:
        halves = [
            rule(
                ctx,
                *_part(ctx, list(args), place),
                **{k: _part(ctx, v, place) for k, v in kwargs.items()},
            )
            for place in range(2)
        ]
        if isinstance(halves[0], list):
            return [Complex(re, im) for re, im in zip(*halves, strict=True)]
        if not isinstance(halves[0], Value | torch.Tensor):
            return halves[0]
        re, im = (ctx.constant(h) if isinstance(h, torch.Tensor) else h for h in halves)
        return Complex(re, im)

    return run


def _part(ctx: Context, item: Any, place: int) -> Any:
    if isinstance(item, list):
        return [_part(ctx, entry, place) for entry in item]
    if isinstance(item, Complex):
        return item.im if place else item.re
    return item


def both(op: Op) -> Callable[..., Complex]:
    """Sums and differences."""

    def run(ctx: Context, a: Number, b: Number, alpha: Scalar = 1) -> Complex:
        x, y = _complex(ctx, a), _complex(ctx, b)
        if alpha != 1:
            y = mul(ctx, y, alpha)
        return Complex(ctx.emit(op, x.re, y.re), ctx.emit(op, x.im, y.im))

    return run


def mul(ctx: Context, a: Number, b: Number) -> Complex:
    """(a + bi)(c + di); a real factor scales both parts."""
    x, y = _complex(ctx, a), _complex(ctx, b)
    if _is_real(a):
        return Complex(ctx.emit(ew.Mul(), x.re, y.re), ctx.emit(ew.Mul(), x.re, y.im))
    if _is_real(b):
        return Complex(ctx.emit(ew.Mul(), x.re, y.re), ctx.emit(ew.Mul(), x.im, y.re))
    times = ew.Mul()
    re = ctx.emit(ew.Sub(), ctx.emit(times, x.re, y.re), ctx.emit(times, x.im, y.im))
    im = ctx.emit(ew.Add(), ctx.emit(times, x.re, y.im), ctx.emit(times, x.im, y.re))
    return Complex(re, im)


def matmul(ctx: Context, a: Number, b: Number) -> Complex:
    """Matrix product."""
    x, y = _complex(ctx, a), _complex(ctx, b)
    ac, bd, ad, bc = (
        real_matmul(ctx, p, q) for p, q in ((x.re, y.re), (x.im, y.im), (x.re, y.im), (x.im, y.re))
    )
    return Complex(ctx.emit(ew.Sub(), ac, bd), ctx.emit(ew.Add(), ad, bc))


def div(ctx: Context, a: Number, b: Number) -> Complex:
    """a conj(b) / |b|^2; a real divisor divides both parts."""
    x, y = _complex(ctx, a), _complex(ctx, b)
    if _is_real(b):
        return Complex(ctx.emit(ew.Div(), x.re, y.re), ctx.emit(ew.Div(), x.im, y.re))
    top, size = mul(ctx, x, conj(ctx, y)), _square(ctx, y)
    return Complex(ctx.emit(ew.Div(), top.re, size), ctx.emit(ew.Div(), top.im, size))


def _square(ctx: Context, x: Complex) -> Value:
    return ctx.emit(ew.Add(), *(ctx.emit(ew.Mul(), part, part) for part in (x.re, x.im)))


def conj(ctx: Context, x: Complex) -> Complex:
    """a - bi."""
    return Complex(x.re, ctx.emit(ew.Neg(), x.im))


def absolute(ctx: Context, x: Complex) -> Value:
    """sqrt(a^2 + b^2)."""
    return ctx.emit(ew.Sqrt(), _square(ctx, x))


def angle(ctx: Context, x: Complex) -> Value:
    """atan2(b, a)."""
    return ctx.emit(ew.Atan2(), x.im, x.re)


def exp(ctx: Context, x: Complex) -> Complex:
    """e^a (cos b + i sin b)."""
    return polar(ctx, ctx.emit(ew.Exp(), x.re), x.im)


def polar(ctx: Context, size: Value, turn: Value) -> Complex:
    """size (cos turn + i sin turn)."""
    re, im = ctx.emit(ew.Cos(), turn), ctx.emit(ew.Sin(), turn)
    return Complex(ctx.emit(ew.Mul(), size, re), ctx.emit(ew.Mul(), size, im))


def reciprocal(ctx: Context, x: Complex) -> Complex:
    """1 / x."""
    return div(ctx, 1.0, x)


def power(ctx: Context, x: Complex, exponent: Any) -> Complex:
    """Whole powers that are products."""
    require(exponent in (1, 2, 3), "only powers 1, 2 and 3 of complex tensors are supported")
    result = x
    for _ in range(int(exponent) - 1):
        result = mul(ctx, result, x)
    return result


def sgn(ctx: Context, x: Complex) -> Complex:
    """x / |x|, 0 at 0."""
    size = absolute(ctx, x)
    zero = ctx.number(0, size.type.dtype)
    divisor = ctx.emit(
        ew.Where(), ctx.emit(ew.Equal(), size, zero), ctx.number(1, size.type.dtype), size
    )
    return Complex(ctx.emit(ew.Div(), x.re, divisor), ctx.emit(ew.Div(), x.im, divisor))


def equal(op: Op, join: Op) -> Callable[..., Value]:
    """Equal when both parts are."""

    def run(ctx: Context, a: Any, b: Any) -> Value:
        first, second = (_operand(ctx, item, a, b) for item in (a, b))
        return ctx.emit(join, ctx.emit(op, first.re, second.re), ctx.emit(op, first.im, second.im))

    return run


def _operand(ctx: Context, item: Any, *all_items: Any) -> Complex:
    kind = next(x.re.type.dtype for x in all_items if isinstance(x, Complex))
    if isinstance(item, Complex):
        return item
    if isinstance(item, Value):
        return Complex(ctx.cast(item, kind), ctx.zeros_like(ctx.cast(item, kind)))
    number = complex(item)
    return Complex(ctx.number(number.real, kind), ctx.number(number.imag, kind))


def convert(ctx: Context, x: Complex, **_: Any) -> Complex | Value:
    """Another complex type, or the real part for a real one."""
    kind = ctx.dtype()
    if not ctx.fake().is_complex():
        return ctx.cast(x.re, kind)
    return Complex(ctx.cast(x.re, kind), ctx.cast(x.im, kind))


def convert_real(ctx: Context, x: Value, **_: Any) -> Complex | Value:
    """_to_copy of a real tensor, which may make it complex."""
    return _complex(ctx, x) if ctx.fake().is_complex() else ctx.cast(x, ctx.dtype())


def where(ctx: Context, condition: Value, a: Number, b: Number) -> Complex:
    """a where the condition holds, else b."""
    x, y = _complex(ctx, a), _complex(ctx, b)
    return Complex(
        ctx.emit(ew.Where(), condition, x.re, y.re), ctx.emit(ew.Where(), condition, x.im, y.im)
    )


def logical_not(ctx: Context, x: Complex) -> Value:
    """True where both parts are zero."""
    return ctx.emit(ew.BitwiseAnd(), *(ctx.emit(ew.LogicalNot(), part) for part in (x.re, x.im)))


def either(test: Op) -> Callable[..., Value]:
    """A test that holds when it holds for one part."""

    def run(ctx: Context, x: Complex) -> Value:
        return ctx.emit(ew.BitwiseOr(), *(ctx.emit(test, part) for part in (x.re, x.im)))

    return run


# Ops on real tensors whose result is complex.
FROM_REAL: Mapping[OpOverload, Callable[..., Any]] = {
    aten.view_as_complex.default: from_pair,
    aten.complex.default: lambda ctx, re, im: Complex(re, im),
    aten.polar.default: polar,
    aten._to_copy.default: convert_real,
    aten._conj.default: lambda ctx, x: x,
    aten._conj_physical.default: lambda ctx, x: x,
    aten.conj_physical.default: lambda ctx, x: x,
    aten.resolve_conj.default: lambda ctx, x: x,
}
RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.view_as_real.default: to_pair,
    aten.view_as_real_copy.default: to_pair,
    aten.real.default: lambda ctx, x: x.re,
    aten.imag.default: lambda ctx, x: x.im,
    aten.add.Tensor: both(ew.Add()),
    aten.add.Scalar: both(ew.Add()),
    aten.sub.Tensor: both(ew.Sub()),
    aten.sub.Scalar: both(ew.Sub()),
    aten.mul.Tensor: mul,
    aten.mul.Scalar: mul,
    aten.div.Tensor: div,
    aten.div.Scalar: div,
    aten.mm.default: matmul,
    aten.bmm.default: matmul,
    aten.matmul.default: matmul,
    aten.mv.default: matmul,
    aten.dot.default: matmul,
    aten._conj.default: conj,
    aten._conj_physical.default: conj,
    aten.conj_physical.default: conj,
    aten.resolve_conj.default: lambda ctx, x: x,
    aten.resolve_neg.default: lambda ctx, x: x,
    aten.abs.default: absolute,
    aten.angle.default: angle,
    aten.exp.default: exp,
    aten.reciprocal.default: reciprocal,
    aten.sgn.default: sgn,
    aten.pow.Tensor_Scalar: power,
    aten.square.default: lambda ctx, x: mul(ctx, x, x),
    aten.eq.Tensor: equal(ew.Equal(), ew.BitwiseAnd()),
    aten.eq.Scalar: equal(ew.Equal(), ew.BitwiseAnd()),
    aten.ne.Tensor: equal(ew.NotEqual(), ew.BitwiseOr()),
    aten.ne.Scalar: equal(ew.NotEqual(), ew.BitwiseOr()),
    aten.where.self: where,
    aten._to_copy.default: convert,
    aten.logical_not.default: logical_not,
    aten.isnan.default: either(ew.IsNan()),
    aten.isinf.default: either(ew.IsInf()),
    aten.sum.default: partwise(reduce_as(ReduceSum)),
    aten.sum.dim_IntList: partwise(reduce_as(ReduceSum)),
    aten.mean.default: partwise(reduce_as(ReduceMean)),
    aten.mean.dim: partwise(reduce_as(ReduceMean)),
}
PARTWISE = frozenset(
    {
        *(aten.view.default, aten._unsafe_view.default, aten.reshape.default),
        *(aten.permute.default, aten.transpose.int, aten.t.default, aten.expand.default),
        *(aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
        *(aten.slice.Tensor, aten.select.int, aten.narrow.default, aten.slice_scatter.default),
        *(aten.select_scatter.default, aten.cat.default, aten.stack.default),
        *(aten.split_with_sizes.default, aten.split.Tensor, aten.unbind.int, aten.flip.default),
        *(aten.roll.default, aten.repeat.default, aten.tile.default, aten.tril.default),
        *(aten.triu.default, aten.repeat_interleave.self_int, aten.diagonal.default),
        *(aten.unfold.default, aten.as_strided.default, aten.trace.default, aten.neg.default),
        *(aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.cumsum.default),
        *(aten.clone.default, aten.alias.default, aten.detach.default, aten.contiguous.default),
        *(aten.lift_fresh_copy.default, aten.sym_size.int, aten.sym_numel.default),
    }
)
