"""Floats by their bits: rounding to integers, powers of two, signs, clamps that let nan through."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.ir import Expr

INFINITY, NAN = float("inf"), float("nan")
# Adding this rounds a small f32 to an integer, which then stands in the low bits.
ROUNDER = 12582912.0
_ROUNDER_BITS = 0x4B400000
# The same for f64, where conversions to and from 64-bit integers are slow or foreign calls.
ROUNDER_WIDE = 6755399441055744.0
_ROUNDER_BITS_WIDE = 0x4338000000000000


def f32(value: float) -> Expr:
    """A constant."""
    return tirx.const(value, "float32")


def f64(value: float) -> Expr:
    """A constant."""
    return tirx.const(value, "float64")


def i32(value: int) -> Expr:
    """A constant."""
    return tirx.const(value, "int32")


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme, the constant coefficient first."""
    dtype = x.ty.dtype
    *rest, result = (tirx.const(c, dtype) for c in coefficients)
    for coefficient in reversed(rest):
        result = result * x + coefficient
    return result


def between(x: Expr, low: float, high: float) -> Expr:
    """x limited to [low, high]; nan stays nan."""
    return below(tirx.Select(x < f32(low), f32(low), x), high)


def below(x: Expr, high: float) -> Expr:
    """x limited from above; nan stays nan."""
    return tirx.Select(x > f32(high), f32(high), x)


def absolute(x: Expr) -> Expr:
    """|x|."""
    return tirx.call_llvm_pure_intrin("float32", "llvm.fabs", x)


def with_sign(x: Expr, sign: Expr) -> Expr:
    """x with the sign of `sign`."""
    return tirx.call_llvm_pure_intrin("float32", "llvm.copysign", x, sign)


def nearest(x: Expr) -> Expr:
    """x rounded to an integer, halves to even."""
    return tirx.call_llvm_pure_intrin(x.ty.dtype, "llvm.nearbyint", x)


def is_negative(x: Expr) -> Expr:
    """Whether the sign bit is set, also of zero."""
    return tirx.reinterpret("int32", x) < i32(0)


def opaque(x: Expr) -> Expr:
    """x behind conversions that cost nothing: else TVM cancels (x + c) - c, rounding and all."""
    whole = "int64" if x.ty.dtype == "float64" else "int32"
    return tirx.reinterpret(x.ty.dtype, tirx.reinterpret(whole, x))


def integer(shifted: Expr) -> Expr:
    """The integer that adding ROUNDER left in the low bits."""
    return tirx.reinterpret("int32", shifted) - i32(_ROUNDER_BITS)


def integer_wide(shifted: Expr) -> Expr:
    """The integer that adding ROUNDER_WIDE left in the low bits."""
    return tirx.reinterpret("int64", shifted) - tirx.const(_ROUNDER_BITS_WIDE, "int64")


def float_wide(whole: Expr) -> Expr:
    """A small int64 as f64."""
    bits = whole + tirx.const(_ROUNDER_BITS_WIDE, "int64")
    return tirx.reinterpret("float64", bits) - f64(ROUNDER_WIDE)


def power_of_two(exponent: Expr) -> Expr:
    """2^n for -126 <= n <= 127."""
    return tirx.reinterpret("float32", tirx.shift_left(exponent + i32(127), i32(23)))


def scaled(value: Expr, exponent: Expr) -> Expr:
    """value * 2^n for |n| <= 252: overflows to infinity and underflows gradually."""
    half = tirx.shift_right(exponent, i32(1))
    return value * power_of_two(half) * power_of_two(exponent - half)
