"""Integer arithmetic as torch has it, with no operation that traps or that C leaves undefined."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.element import choose, const, differ, let
from optc.ir.dtype import DType, Kind


def trunc_div(dtype: DType, a: Expr, b: Expr) -> Expr:
    """trunc(a / b); a / 0 is a, and the one quotient that overflows wraps, where hardware traps."""
    zero, one = const(0, dtype), const(1, dtype)
    if dtype.kind is Kind.UNSIGNED:
        return tirx.truncdiv(a, choose(b == zero, one, b))
    minus = const(-1, dtype)
    safe = choose(tirx.any(b == zero, b == minus), one, b)
    return choose(b == minus, zero - a, tirx.truncdiv(a, safe))


def floor_div(dtype: DType, a: Expr, b: Expr) -> Expr:
    """floor(a / b)."""
    quotient = trunc_div(dtype, a, b)
    if dtype.kind is Kind.UNSIGNED:
        return quotient
    zero = const(0, dtype)
    rest = a - b * quotient
    below = tirx.all(rest != zero, differ(rest < zero, b < zero))
    return choose(below, quotient - const(1, dtype), quotient)


def shift_left(dtype: DType, a: Expr, b: Expr) -> Expr:
    """a shifted left; 0 for a count outside the width."""
    inside = _inside(dtype, b, dtype.bits)
    count = choose(inside, b, const(0, dtype))
    return choose(inside, tirx.shift_left(a, count), const(0, dtype))


def shift_right(dtype: DType, a: Expr, b: Expr) -> Expr:
    """a shifted right, sign kept; a count outside the width shifts all bits out."""
    limit = dtype.bits - (1 if dtype.kind is Kind.SIGNED else 0)
    if dtype.kind is Kind.UNSIGNED:
        inside = _inside(dtype, b, limit)
        shifted = tirx.shift_right(a, choose(inside, b, const(0, dtype)))
        return choose(inside, shifted, const(0, dtype))
    return tirx.shift_right(a, choose(_inside(dtype, b, limit), b, const(limit, dtype)))


def _inside(dtype: DType, count: Expr, limit: int) -> Expr:
    below = count < const(limit, dtype)
    return below if dtype.kind is Kind.UNSIGNED else tirx.all(count >= const(0, dtype), below)


_EXPONENT_BITS = 6  # TVM's passes take time exponential in nested lets: 63 of them never end


def power(dtype: DType, a: Expr, b: Expr) -> Expr:
    """a to the b by squaring, wrapping.

    A negative exponent gives 0 unless a is 1 or -1. So does one of 64 or more, whose power fits in
    no integer (torch gives its low bits).
    """
    zero, one = const(0, dtype), const(1, dtype)
    small = _squarings(dtype, a, b, one, min(dtype.bits - 1, _EXPONENT_BITS))
    limit = const(1 << _EXPONENT_BITS, dtype)
    if dtype.kind is Kind.UNSIGNED:
        return choose(b < limit, small, choose(a == one, one, zero))
    odd = tirx.bitwise_and(b, one) != zero
    unit = choose(a == one, one, choose(a == const(-1, dtype), choose(odd, a, one), zero))
    return choose(tirx.any(b < zero, b >= limit), unit, small)


def _squarings(dtype: DType, base: Expr, rest: Expr, result: Expr, bits: int) -> Expr:
    """result * base ** rest from the exponent's lowest bit up; unnamed, it would grow as 2^bits."""
    one = const(1, dtype)
    odd = tirx.bitwise_and(rest, one) != const(0, dtype)
    joined = choose(odd, result * base, result)
    if bits == 1:
        return joined

    def squared(product: Expr) -> Expr:
        half = tirx.shift_right(rest, one)
        return let(base * base, lambda square: _squarings(dtype, square, half, product, bits - 1))

    return let(joined, squared)
