"""Circular functions of f32 and their inverses, as in fastmath."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.element import let
from optc.backends.tvm.lower.floatbits import (
    INFINITY,
    NAN,
    absolute,
    f32,
    f64,
    i32,
    is_negative,
    nearest,
    polynomial,
    with_sign,
)

_HALF_PI, _PI = 1.5707963267948966, 3.141592653589793
# pi / 2 in parts of 27 bits: their products with counts of 26 bits are exact in f64.
_HALF_PI_PARTS = (1.570796325802803, 9.920935739593517e-10, 5.721188726109832e-18)
# fmt: off
# sin(r) = r + r^3 P(r^2) and cos(r) = 1 - r^2 / 2 + r^4 P(r^2) for |r| <= pi / 4.
_SIN = (-0.16666655242443085, 0.008332190103828907, -0.00019518405315466225)
_COS = (0.04166664555668831, -0.0013887309469282627, 2.4432327336398885e-05)
# atan(x) = x + x^3 P(x^2) for |x| <= 1; asin(x) likewise for |x| <= 1/2.
_ATAN = (-0.333333283662796, 0.1999971568584442, -0.14280344545841217, 0.11061251163482666,
         -0.08821550011634827, 0.06763879954814911, -0.0449867807328701, 0.022780757397413254,
         -0.007426883559674025, 0.00113483180757612)
_ASIN = (0.16666659712791443, 0.07500521093606949, 0.04451363533735275, 0.03183605521917343,
         0.014329188503324986, 0.03767313063144684)
# fmt: on


def sin(x: Expr) -> Expr:
    """Sine, within 2 ulp for |x| <= 1e14; beyond that neighbours are whole turns apart."""
    return _circular(x, lambda quarter, s, c: _quadrant(quarter, s, c))


def cos(x: Expr) -> Expr:
    """Cosine, within 2 ulp for |x| <= 1e14."""
    return _circular(x, lambda quarter, s, c: _quadrant(quarter + i32(1), s, c))


def tan(x: Expr) -> Expr:
    """Tangent, within 4 ulp for |x| <= 1e14."""

    def ratio(quarter: Expr, s: Expr, c: Expr) -> Expr:
        odd = tirx.NE(tirx.bitwise_and(quarter, i32(1)), i32(0))
        return tirx.Select(odd, -c, s) / tirx.Select(odd, s, c)

    return _circular(x, ratio)


def _quadrant(quarter: Expr, s: Expr, c: Expr) -> Expr:
    odd = tirx.NE(tirx.bitwise_and(quarter, i32(1)), i32(0))
    value = tirx.Select(odd, c, s)
    return tirx.Select(tirx.NE(tirx.bitwise_and(quarter, i32(2)), i32(0)), -value, value)


def _circular(x: Expr, finish: Callable[[Expr, Expr, Expr], Expr]) -> Expr:
    """`finish(q, sin r, cos r)` with x = q pi/2 + r, q counted modulo 4."""

    def rest(count: Expr) -> Expr:
        quarter = count - f64(4.0) * tirx.floor(count * f64(0.25))
        # Infinity and nan have no integer.
        quarter = tirx.Select(absolute(x) < f32(1e15), quarter, f64(0.0))
        return let(tirx.Cast("int32", quarter), lambda q: let(_remainder(x, count), part(q)))

    def part(quarter: Expr) -> Callable[[Expr], Expr]:
        def values(r: Expr) -> Expr:
            square = r * r
            sine = let(square, lambda s: r + r * (s * polynomial(s, _SIN)))
            cosine = let(square, lambda s: f32(1.0) + s * (s * polynomial(s, _COS) - f32(0.5)))
            return let(sine, lambda a: let(cosine, lambda b: finish(quarter, a, b)))

        return values

    result = let(nearest(tirx.Cast("float64", x) * f64(1.0 / _HALF_PI)), rest)
    return tirx.Select(absolute(x) < f32(INFINITY), result, f32(NAN))


def _remainder(x: Expr, count: Expr) -> Expr:
    """x - count * pi / 2, for counts of up to 52 bits: their halves of 26 bits one by one."""
    first, second, third = (f64(part) for part in _HALF_PI_PARTS)
    high = nearest(count * f64(2.0**-26)) * f64(2.0**26)

    def subtracted(upper: Expr) -> Expr:
        lower = count - upper
        r = (tirx.Cast("float64", x) - upper * first) - lower * first
        r = (r - upper * second) - lower * second - count * third
        r = tirx.Select(r < f64(1.0), r, f64(1.0))  # what is too large for the reduction
        return tirx.Cast("float32", tirx.Select(r > f64(-1.0), r, f64(-1.0)))

    return let(high, subtracted)


def atan(x: Expr) -> Expr:
    """Inverse tangent, within 2 ulp."""

    def signed(t: Expr) -> Expr:
        steep = t > f32(1.0)
        near = let(tirx.Select(steep, f32(1.0) / t, t), _atan_near)
        return with_sign(let(near, lambda y: tirx.Select(steep, f32(_HALF_PI) - y, y)), x)

    return let(absolute(x), signed)


def atan2(y: Expr, x: Expr) -> Expr:
    """Angle of the point (x, y), within 3 ulp, with C's answers at zeros and infinities."""

    def quadrants(a: Expr, b: Expr) -> Expr:
        steep = a > b
        small, large = tirx.Select(steep, b, a), tirx.Select(steep, a, b)
        level = tirx.Or(tirx.EQ(small, large), tirx.EQ(large, f32(0.0)))
        same = tirx.Select(tirx.EQ(large, f32(0.0)), f32(0.0), f32(1.0))
        near = let(tirx.Select(level, same, small / large), _atan_near)
        turned = let(near, lambda angle: tirx.Select(steep, f32(_HALF_PI) - angle, angle))
        behind = let(turned, lambda t: tirx.Select(is_negative(x), f32(_PI) - t, t))
        number = tirx.And(a <= f32(INFINITY), b <= f32(INFINITY))
        return tirx.Select(number, with_sign(behind, y), x + y)

    return let(absolute(y), lambda a: let(absolute(x), lambda b: quadrants(a, b)))


def _atan_near(y: Expr) -> Expr:
    return let(y * y, lambda s: y + y * (s * polynomial(s, _ATAN)))


def asin(x: Expr) -> Expr:
    """Inverse sine, within 3 ulp."""

    def signed(t: Expr) -> Expr:
        steep = t > f32(0.5)
        near = _asin_near(t, steep)
        bent = let(near, lambda y: tirx.Select(steep, f32(_HALF_PI) - (y + y), y))
        return with_sign(bent, x)

    return let(absolute(x), signed)


def acos(x: Expr) -> Expr:
    """Inverse cosine, within 3 ulp."""

    def sides(t: Expr) -> Expr:
        steep = t > f32(0.5)

        def joined(y: Expr) -> Expr:
            left = tirx.Select(x < f32(0.0), f32(_PI) - (y + y), y + y)
            return tirx.Select(steep, left, f32(_HALF_PI) - with_sign(y, x))

        return let(_asin_near(t, steep), joined)

    return let(absolute(x), sides)


def _asin_near(t: Expr, steep: Expr) -> Expr:
    """asin(t), or where steep asin(sqrt((1 - t) / 2)), half of its complement."""
    square = tirx.Select(steep, (f32(1.0) - t) * f32(0.5), t * t)

    def series(s: Expr) -> Expr:
        root = tirx.Select(steep, tirx.sqrt(s), t)
        return let(root, lambda y: y + y * (s * polynomial(s, _ASIN)))

    return let(square, series)
