"""ATen rules: arithmetic, comparisons, logic and conversions, with torch's type promotion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, Operand, require
from optc.ir.capture.dtypes import from_torch
from optc.ir.constant import Scalar
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Op, ew

Rule = Callable[..., Any]
aten = torch.ops.aten


def unary(op: Op) -> Rule:
    """An op of floats: integers are converted as torch does."""

    def run(ctx: Context, x: Value) -> Value:
        return ctx.emit(op, ctx.cast(x, ctx.dtype()))

    return run


def rounding(op: Op) -> Rule:
    """A rounding of floats; integers are round already."""

    def run(ctx: Context, x: Value) -> Value:
        return ctx.emit(op, x) if x.type.dtype.is_float else x

    return run


def binary(op: Op) -> Rule:
    """An op whose operands are first brought to the result's dtype."""

    def run(ctx: Context, a: Operand, b: Operand) -> Value:
        dtype = ctx.dtype()
        return ctx.emit(op, ctx.value(a, dtype), ctx.value(b, dtype))

    return run


def ignoring_nan(op: Op) -> Rule:
    """`binary`, but beside a number nan is as if it were that number."""

    def run(ctx: Context, a: Operand, b: Operand) -> Value:
        dtype = ctx.dtype()
        x, y = ctx.value(a, dtype), ctx.value(b, dtype)
        if not dtype.is_float:
            return ctx.emit(op, x, y)
        left = ctx.emit(ew.Where(), ctx.emit(ew.IsNan(), x), y, x)
        right = ctx.emit(ew.Where(), ctx.emit(ew.IsNan(), y), x, y)
        return ctx.emit(op, left, right)

    return run


def comparison(op: Op) -> Rule:
    """An op whose operands are brought to their common dtype, the result being bool."""

    def run(ctx: Context, a: Operand, b: Operand) -> Value:
        return ctx.emit(op, *ctx.common(a, b))

    return run


def logical(op: Op) -> Rule:
    """An op on truth values."""

    def run(ctx: Context, a: Value, b: Value) -> Value:
        return ctx.emit(op, ctx.cast(a, DType.BOOL), ctx.cast(b, DType.BOOL))

    return run


def _scaled(ctx: Context, value: Operand, alpha: Scalar) -> Value:
    dtype = ctx.dtype()
    scaled = ctx.value(value, dtype)
    return scaled if alpha == 1 else ctx.emit(ew.Mul(), scaled, ctx.number(alpha, dtype))


def add(ctx: Context, a: Operand, b: Operand, alpha: Scalar = 1) -> Value:
    """a + alpha * b; of bools, either."""
    first, second = ctx.value(a, ctx.dtype()), _scaled(ctx, b, alpha)
    return ctx.emit(ew.BitwiseOr() if ctx.dtype() is DType.BOOL else ew.Add(), first, second)


def sub(ctx: Context, a: Operand, b: Operand, alpha: Scalar = 1) -> Value:
    """a - alpha * b."""
    return ctx.emit(ew.Sub(), ctx.value(a, ctx.dtype()), _scaled(ctx, b, alpha))


def rsub(ctx: Context, a: Operand, b: Operand, alpha: Scalar = 1) -> Value:
    """b - alpha * a."""
    return ctx.emit(ew.Sub(), ctx.value(b, ctx.dtype()), _scaled(ctx, a, alpha))


def mul(ctx: Context, a: Operand, b: Operand) -> Value:
    """a * b; of bools, both."""
    op = ew.BitwiseAnd() if ctx.dtype() is DType.BOOL else ew.Mul()
    return binary(op)(ctx, a, b)  # type: ignore[no-any-return]


def square(ctx: Context, x: Value) -> Value:
    """x * x."""
    return mul(ctx, x, x)


_DIVISION: Mapping[str | None, Op] = {
    None: ew.Div(),
    "floor": ew.FloorDiv(),
    "trunc": ew.TruncDiv(),
}


def div(ctx: Context, a: Operand, b: Operand, rounding_mode: str | None = None) -> Value:
    """a / b, exact or rounded; without rounding integers become floats."""
    return binary(_DIVISION[rounding_mode])(ctx, a, b)  # type: ignore[no-any-return]


def power(ctx: Context, base: Operand, exponent: Operand) -> Value:
    """base ** exponent; the exponents that have their own op in torch's kernels get it here."""
    dtype = ctx.dtype()
    x = ctx.value(base, dtype)
    if isinstance(exponent, Value):
        return ctx.emit(ew.Pow(), x, ctx.cast(exponent, dtype))
    if exponent == 1:
        return x
    if exponent == 2:
        return ctx.emit(ew.Mul(), x, x)
    if exponent == 3:
        return ctx.emit(ew.Mul(), ctx.emit(ew.Mul(), x, x), x)
    special = {0.5: ew.Sqrt(), -0.5: ew.Rsqrt(), -1: ew.Reciprocal()}.get(float(exponent))
    if special is not None and dtype.is_float:
        return ctx.emit(special, x)
    if not dtype.is_float and exponent >= _LONG:
        return _squared(ctx, x, int(exponent))
    return ctx.emit(ew.Pow(), x, ctx.number(exponent, dtype))


_LONG = 64  # an exponent that overflows every integer; kernels of Pow look at its low bits only


def _squared(ctx: Context, x: Value, exponent: int) -> Value:
    """An integer's power, wrapping as torch's does: squares for the exponent's bits, multiplied."""
    result = None
    while True:
        if exponent & 1:
            result = x if result is None else ctx.emit(ew.Mul(), result, x)
        exponent >>= 1
        if not exponent:
            break
        x = ctx.emit(ew.Mul(), x, x)
    assert result is not None
    return result


def clamp(ctx: Context, x: Value, low: Any = None, high: Any = None) -> Value:
    """Limit to numbers or to tensors; either side may be open."""
    dtype = ctx.dtype()
    result = ctx.cast(x, dtype)
    if not isinstance(low, Value) and not isinstance(high, Value):
        return ctx.emit(ew.Clamp(_limit(low, dtype), _limit(high, dtype)), result)
    if low is not None:
        result = ctx.emit(ew.Maximum(), result, ctx.value(low, dtype))
    if high is not None:
        result = ctx.emit(ew.Minimum(), result, ctx.value(high, dtype))
    return result


def _limit(number: Scalar | None, dtype: DType) -> float | int | None:
    if number is None:
        return None
    return float(number) if dtype.is_float else int(number)


def hardtanh(ctx: Context, x: Value, low: Scalar = -1, high: Scalar = 1) -> Value:
    """Limit to [low, high]."""
    return clamp(ctx, x, low, high)


def where(ctx: Context, condition: Value, a: Operand, b: Operand) -> Value:
    """a where the condition holds, else b."""
    dtype = ctx.dtype()
    test = ctx.cast(condition, DType.BOOL)
    return ctx.emit(ew.Where(), test, ctx.value(a, dtype), ctx.value(b, dtype))


def masked_fill(ctx: Context, x: Value, mask: Value, number: Operand) -> Value:
    """The number where the mask holds, else x."""
    return where(ctx, mask, number, x)


def convert(ctx: Context, x: Value, **_: Any) -> Value:
    """Another dtype; device, layout and memory format have no meaning here."""
    return ctx.cast(x, ctx.dtype())


def convert_like(ctx: Context, _: Value, source: Value, *__: Any) -> Value:
    """`copy`: the source in the shape and dtype of the target."""
    return ctx.expand(ctx.cast(source, ctx.dtype()), ctx.shape())


def same(_: Context, x: Value, *__: Any, **___: Any) -> Value:
    """An op that gives back its input: clones, aliases, contiguity."""
    return x


def absolute(ctx: Context, x: Value) -> Value:
    """Absolute value."""
    return x if x.type.dtype in (DType.U8, DType.BOOL) else ctx.emit(ew.Abs(), x)


def sign(ctx: Context, x: Value) -> Value:
    """-1, 0 or 1; a bool is its own sign."""
    return x if x.type.dtype is DType.BOOL else ctx.emit(ew.Sign(), x)


def relu(ctx: Context, x: Value) -> Value:
    """max(x, 0)."""
    return ctx.emit(ew.Relu(), x)


def predicate(op: Op) -> Rule:
    """A test that only floats can pass."""

    def run(ctx: Context, x: Value) -> Value:
        if x.type.dtype.is_float:
            return ctx.emit(op, x)
        return ctx.full(x.type.with_dtype(DType.BOOL), False)

    return run


def round_decimals(ctx: Context, x: Value, decimals: int) -> Value:
    """Nearest number with so many decimals."""
    require(x.type.dtype.is_float, "rounding integers to decimals is not supported")
    scale = ctx.number(10.0 ** abs(decimals), x.type.dtype)
    there, back = (ew.Mul(), ew.Div()) if decimals >= 0 else (ew.Div(), ew.Mul())
    return ctx.emit(back, ctx.emit(ew.Round(), ctx.emit(there, x, scale)), scale)


def neg(ctx: Context, x: Value) -> Value:
    """-x."""
    return ctx.emit(ew.Neg(), x)


def convert_dtype(ctx: Context, x: Value, dtype: torch.dtype) -> Value:
    """prims.convert_element_type."""
    return ctx.cast(x, from_torch(dtype))


def erfc(ctx: Context, x: Value) -> Value:
    """1 - erf(x)."""
    x = ctx.cast(x, ctx.dtype())
    return ctx.emit(ew.Sub(), ctx.number(1, x.type.dtype), ctx.emit(ew.Erf(), x))


def hypot(ctx: Context, a: Value, b: Value) -> Value:
    """sqrt(a^2 + b^2)."""
    squares = [ctx.emit(ew.Mul(), x, x) for x in ctx.common(a, b)]
    return ctx.emit(ew.Sqrt(), ctx.emit(ew.Add(), *squares))


def _pairs(packet: Any, rule: Rule, *overloads: str) -> dict[OpOverload, Rule]:
    return {getattr(packet, overload): rule for overload in overloads}


_FLOAT = {
    "acos": ew.Acos(), "acosh": ew.Acosh(), "asin": ew.Asin(), "asinh": ew.Asinh(),
    "atan": ew.Atan(), "atanh": ew.Atanh(), "cos": ew.Cos(), "cosh": ew.Cosh(), "erf": ew.Erf(),
    "exp": ew.Exp(), "expm1": ew.Expm1(), "log": ew.Log(), "log10": ew.Log10(),
    "log1p": ew.Log1p(), "log2": ew.Log2(), "reciprocal": ew.Reciprocal(), "rsqrt": ew.Rsqrt(),
    "sigmoid": ew.Sigmoid(), "sin": ew.Sin(), "sinh": ew.Sinh(), "sqrt": ew.Sqrt(),
    "tan": ew.Tan(), "tanh": ew.Tanh(),
}  # fmt: skip
_COMPARISON = {
    "eq": ew.Equal(), "ne": ew.NotEqual(), "lt": ew.Less(), "le": ew.LessEqual(),
    "gt": ew.Greater(), "ge": ew.GreaterEqual(),
}  # fmt: skip
_BITWISE = {
    "bitwise_and": ew.BitwiseAnd(), "bitwise_or": ew.BitwiseOr(), "bitwise_xor": ew.BitwiseXor(),
}  # fmt: skip
_SHIFT = {
    "bitwise_left_shift": ew.ShiftLeft(), "bitwise_right_shift": ew.ShiftRight(),
    "__lshift__": ew.ShiftLeft(), "__rshift__": ew.ShiftRight(),
}  # fmt: skip

RULES: Mapping[OpOverload, Rule] = {
    **{getattr(aten, name).default: unary(op) for name, op in _FLOAT.items()},
    **{
        getattr(getattr(aten, name), overload): comparison(op)
        for name, op in _COMPARISON.items()
        for overload in ("Tensor", "Scalar")
    },
    **{
        getattr(getattr(aten, name), overload): binary(op)
        for name, op in _BITWISE.items()
        for overload in ("Tensor", "Scalar", "Scalar_Tensor")
    },
    **{
        getattr(getattr(aten, name), overload): binary(op)
        for name, op in _SHIFT.items()
        for overload in ("Tensor", "Scalar", "Tensor_Scalar", "Scalar_Tensor")
        if overload in getattr(aten, name).overloads()
    },
    **{aten.fmod.Tensor: binary(ew.Fmod()), aten.fmod.Scalar: binary(ew.Fmod())},
    **_pairs(aten.remainder, binary(ew.Remainder()), "Tensor", "Scalar", "Scalar_Tensor"),
    **_pairs(aten.add, add, "Tensor", "Scalar"),
    **_pairs(aten.sub, sub, "Tensor", "Scalar"),
    **_pairs(aten.rsub, rsub, "Tensor", "Scalar"),
    **_pairs(aten.mul, mul, "Tensor", "Scalar"),
    **_pairs(aten.div, div, "Tensor", "Scalar", "Tensor_mode", "Scalar_mode"),
    **_pairs(aten.pow, power, "Tensor_Tensor", "Tensor_Scalar", "Scalar"),
    **_pairs(aten.clamp, clamp, "default", "Tensor"),
    **_pairs(aten.clamp_min, clamp, "default", "Tensor"),
    **_pairs(aten.where, where, "self", "ScalarSelf", "ScalarOther", "Scalar"),
    **_pairs(aten.masked_fill, masked_fill, "Scalar", "Tensor"),
    aten.clamp_max.default: lambda ctx, x, high: clamp(ctx, x, None, high),
    aten.clamp_max.Tensor: lambda ctx, x, high: clamp(ctx, x, None, high),
    aten.floor_divide.default: lambda ctx, a, b: div(ctx, a, b, "floor"),
    aten.square.default: square,
    aten.hardtanh.default: hardtanh,
    aten.atan2.default: binary(ew.Atan2()),
    aten.maximum.default: binary(ew.Maximum()),
    aten.minimum.default: binary(ew.Minimum()),
    aten.fmax.default: ignoring_nan(ew.Maximum()),
    aten.fmin.default: ignoring_nan(ew.Minimum()),
    aten.hypot.default: hypot,
    aten.logical_and.default: logical(ew.BitwiseAnd()),
    aten.logical_or.default: logical(ew.BitwiseOr()),
    aten.logical_xor.default: logical(ew.BitwiseXor()),
    aten.logical_not.default: lambda ctx, x: ctx.emit(ew.LogicalNot(), x),
    aten.bitwise_not.default: lambda ctx, x: ctx.emit(ew.BitwiseNot(), x),
    aten.isnan.default: predicate(ew.IsNan()),
    aten.isinf.default: predicate(ew.IsInf()),
    aten.abs.default: absolute,
    aten.neg.default: neg,
    aten.sign.default: sign,
    aten.sgn.default: sign,
    aten.relu.default: relu,
    aten.erfc.default: erfc,
    aten.ceil.default: rounding(ew.Ceil()),
    aten.floor.default: rounding(ew.Floor()),
    aten.trunc.default: rounding(ew.Trunc()),
    aten.round.default: rounding(ew.Round()),
    aten.round.decimals: round_decimals,
    aten._to_copy.default: convert,
    aten.copy.default: convert_like,
    torch.ops.prims.convert_element_type.default: convert_dtype,
    aten.alias.default: same,
    aten.clone.default: same,
    aten.detach.default: same,
    aten.contiguous.default: same,
    aten.lift_fresh_copy.default: same,
    aten.lift_fresh.default: same,
}

__all__ = ["RULES", "add", "binary", "clamp", "div", "mul", "sub", "unary", "where"]
