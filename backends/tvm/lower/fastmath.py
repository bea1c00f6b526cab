"""Elementary functions of f32 by additions and multiplications: they run in vector registers.

C's library has no vector forms that an artifact could rely on. Methods are the textbook ones: the
argument is reduced exactly (Cody and Waite 1980, in two or three parts of the constant), a
polynomial covers the rest, and the exponent is put together by integer arithmetic. The polynomials
are minimax for relative error with coefficients rounded to f32 one after the other (Remez exchange;
Muller 2016, chapter 3). Errors named are of the whole function, measured by the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.element import let
from optc.backends.tvm.lower.floatbits import (
    INFINITY,
    NAN,
    ROUNDER,
    ROUNDER_WIDE,
    absolute,
    below,
    between,
    f32,
    f64,
    float_wide,
    i32,
    integer,
    integer_wide,
    opaque,
    polynomial,
    power_of_two,
    scaled,
    with_sign,
)

_LOG2_E, _LN2 = 1.4426950408889634, 0.6931471805599453
# ln 2 in two parts: the first has few bits, so that its products with exponents are exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440054690581e-4
# log10(2) likewise.
_LOG10_2_HIGH, _LOG10_2_LOW, _LOG10_E = 0.301025390625, 4.605038981195214e-06, 0.4342944819032518
# fmt: off
# exp(r) = 1 + r + r^2 P(r), and expm1(r) = r + r^2 P(r), for |r| <= ln(2) / 2.
_EXP = (0.4999999403953552, 0.16666516661643982, 0.04166810214519501, 0.008369195275008678,
        0.0013838980812579393)
_EXPM1 = (0.5, 0.16666635870933533, 0.041666511446237564, 0.008341509848833084,
          0.0013930542627349496, 0.00015046261250972748)
# log(1 + f) = f - f^2 / 2 + f^3 P(f) for sqrt(1/2) <= 1 + f <= sqrt(2).
_LOG = (0.3333333134651184, -0.2500082552433014, 0.20001265406608582, -0.16623203456401825,
        0.14200688898563385, -0.13160990178585052, 0.1277131289243698, -0.07644522935152054)
# erf(x) = x + x P(x^2) for |x| <= 0.95; beyond, erf(x) = 1 - exp(x Q(x)).
_ERF_EDGE, _ERF_END = 0.95, 3.95
_ERF_SMALL = (0.12837916612625122, -0.3761262893676758, 0.11283625662326813,
              -0.026855740696191788, 0.0051924604922533035, -0.0008050804026424885,
              8.002774848137051e-05)
_ERF_LARGE = (-1.1286656856536865, -0.6350820660591125, -0.10635051131248474,
              0.023859228938817978, -0.003688089782372117, 0.00033395623904652894,
              -1.2339211934886407e-05)
# Eighth roots of 1 - Phi(t), the normal distribution's upper tail, and of what Gelu's approximation
# by tanh has in its place, for 0 <= t <= 6 and 5.5: minimax for t times the eighth power.
_TAIL_END, _TANH_TAIL_END = 6.0, 5.5
_TAIL = (0.9170039892196655, -0.09145741164684296, -0.03192807734012604, -0.0006719556404277682,
         0.001504362327978015, 3.4295080695301294e-05, -6.025765469530597e-05,
         7.479556188627612e-06, -2.9588215966214193e-07)
_TANH_TAIL = (0.9170029759407043, -0.09143798798322678, -0.032051581889390945,
              -0.00022138952044770122, 0.0009295118506997824, 0.000634704832918942,
              -0.00042489400948397815, 0.00010881830530706793, -1.3082870282232761e-05,
              5.995931928737264e-07)
# In f64, for pow: log2(m) = z P(z^2), z = (m - 1) / (m + 1); 2^r for |r| <= 1/2.
_LOG2_WIDE = (2.885390081777849, 0.9617966941152166, 0.5770779417718759, 0.412209316738634,
              0.3199028893716852, 0.28294250202973403)
_EXP2_WIDE = (0.9999999999616875, 0.6931471807285179, 0.2402265119809768, 0.05550410353141515,
              0.009618027260432625, 0.001333392284344167, 0.00015469289406442466,
              1.5201854450861377e-05)
# fmt: on
_ROOT_HALF_BITS = 0x3F3504F3  # sqrt(1/2) in f32
_ROOT_HALF_BITS_WIDE = 0x3FE6A09E667F3BCD  # and in f64


def exp(x: Expr) -> Expr:
    """e to the x, within 1 ulp, gradual underflow included."""
    return let(between(x, -104.0, 89.0), _exp_in_range)


def _exp_in_range(x: Expr) -> Expr:
    def finish(r: Expr, exponent: Expr) -> Expr:
        return scaled(f32(1.0) + (r + r * r * polynomial(r, _EXP)), exponent)

    return _reduced(x, finish)


def _reduced(x: Expr, finish: Callable[[Expr, Expr], Expr]) -> Expr:
    """`finish(r, n)` with x = n ln(2) + r."""

    def rest(shifted: Expr) -> Expr:
        count = shifted - f32(ROUNDER)
        r = x - count * f32(_LN2_HIGH) - count * f32(_LN2_LOW)
        return let(r, lambda y: finish(y, integer(shifted)))

    return let(opaque(x * f32(_LOG2_E) + f32(ROUNDER)), rest)


def expm1(x: Expr) -> Expr:
    """exp(x) - 1, within 2 ulp also near 0."""

    def finish(r: Expr, exponent: Expr) -> Expr:
        small = r + r * r * polynomial(r, _EXPM1)
        # 2^n q + (2^n - 1), halved first since 2^128 is no f32.
        half = let(power_of_two(exponent - i32(1)), lambda h: small * h + (h - f32(0.5)))
        return let(half, lambda total: total + total)

    result = let(between(x, -20.0, 89.0), lambda y: _reduced(y, finish))
    # Denormals and the sign of zero are lost in the sums above.
    return tirx.Select(absolute(x) < f32(1e-7), x, result)


def log(x: Expr) -> Expr:
    """Natural logarithm, within 1 ulp."""

    def joined(f: Expr, exponent: Expr) -> Expr:
        tail = f * f * (f * polynomial(f, _LOG) - f32(0.5))
        return f + (tail + exponent * f32(_LN2_LOW)) + exponent * f32(_LN2_HIGH)

    return _logarithm(x, joined)


def log2(x: Expr) -> Expr:
    """Binary logarithm, within 2 ulp, exact at powers of two."""
    return _logarithm(x, lambda f, exponent: _log1p_near(f) * f32(_LOG2_E) + exponent)


def log10(x: Expr) -> Expr:
    """Decimal logarithm, within 2 ulp."""

    def joined(f: Expr, exponent: Expr) -> Expr:
        rest = _log1p_near(f) * f32(_LOG10_E) + exponent * f32(_LOG10_2_LOW)
        return rest + exponent * f32(_LOG10_2_HIGH)

    return _logarithm(x, joined)


def _log1p_near(f: Expr) -> Expr:
    return f + f * f * (f * polynomial(f, _LOG) - f32(0.5))


def _logarithm(x: Expr, joined: Callable[[Expr, Expr], Expr]) -> Expr:
    """`joined(f, n)` with x = 2^n (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), and the limits."""
    tiny = x < f32(1.1754943508222875e-38)
    normal = tirx.Select(tiny, x * f32(2.0**25), x)

    def parts(shifted: Expr) -> Expr:
        bits = tirx.bitwise_and(shifted, i32(0x7FFFFF)) + i32(_ROOT_HALF_BITS)
        exponent = tirx.Cast("float32", tirx.shift_right(shifted, i32(23)))
        exponent = exponent - tirx.Select(tiny, f32(25.0), f32(0.0))
        f = tirx.reinterpret("float32", bits) - f32(1.0)
        return let(f, lambda y: let(exponent, lambda n: joined(y, n)))

    result = let(tirx.reinterpret("int32", normal) - i32(_ROOT_HALF_BITS), parts)
    limited = tirx.Select(x < f32(INFINITY), result, x)
    edge = tirx.Select(tirx.EQ(x, f32(0.0)), f32(-INFINITY), f32(NAN))
    return tirx.Select(x > f32(0.0), limited, edge)


def log1p(x: Expr) -> Expr:
    """log(1 + x), within 2 ulp also near 0.

    What rounding 1 + x lost is put back to first order (Kahan's correction).
    """

    def corrected(u: Expr) -> Expr:
        inside = tirx.And(u < f32(INFINITY), u > f32(0.0))
        lost = tirx.Select(inside, (x - (u - f32(1.0))) / u, f32(0.0))
        # Where 1 + x is about 1 the series is exact enough, and keeps the sign of zero.
        near = absolute(x) < f32(1e-4)
        series = x - x * x * (f32(0.5) - x * f32(1 / 3))
        return tirx.Select(near, series, log(u) + lost)

    return let(opaque(f32(1.0) + x), corrected)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)), within 3 ulp."""
    return f32(1.0) / (f32(1.0) + exp(-x))


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent, within 3 ulp: from exp(2x) - 1, which is exact near 0."""
    doubled = between(x, -9.1, 9.1) * f32(2.0)
    return let(let(doubled, expm1), lambda e: e / (e + f32(2.0)))


def sinh(x: Expr) -> Expr:
    """Hyperbolic sine, within 3 ulp."""

    def signed(y: Expr) -> Expr:
        small = let(expm1(below(y, 20.0)), lambda e: f32(0.5) * (e + e / (e + f32(1.0))))
        # Half of the exponential: exp(x) overflows before sinh(x) does.
        return with_sign(tirx.Select(y < f32(20.0), small, _half_exp(y)), x)

    return let(absolute(x), signed)


def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine, within 3 ulp."""
    return let(_half_exp(absolute(x)), lambda half: half + f32(0.25) / half)


def _half_exp(x: Expr) -> Expr:
    """exp(x) / 2 without overflow on the way."""

    def finish(r: Expr, exponent: Expr) -> Expr:
        return scaled(f32(1.0) + (r + r * r * polynomial(r, _EXP)), exponent - i32(1))

    return let(below(x, 90.0), lambda y: _reduced(y, finish))


def asinh(x: Expr) -> Expr:
    """Inverse hyperbolic sine, within 4 ulp."""

    def signed(t: Expr) -> Expr:
        small = let(
            below(t, 1e9), lambda y: log1p(y + y * y / (f32(1.0) + tirx.sqrt(y * y + f32(1))))
        )
        return with_sign(tirx.Select(t < f32(1e9), small, log(t) + f32(_LN2)), x)

    return let(absolute(x), signed)


def acosh(x: Expr) -> Expr:
    """Inverse hyperbolic cosine, within 4 ulp."""
    small = let(below(x, 1e9) - f32(1.0), lambda t: log1p(t + tirx.sqrt(t * (t + f32(2.0)))))
    result = tirx.Select(x < f32(1e9), small, log(x) + f32(_LN2))
    return tirx.Select(x < f32(1.0), f32(NAN), result)


def atanh(x: Expr) -> Expr:
    """Inverse hyperbolic tangent, within 4 ulp."""

    def signed(t: Expr) -> Expr:
        return with_sign(f32(0.5) * log1p((t + t) / (f32(1.0) - t)), x)

    return let(absolute(x), signed)


def erf(x: Expr) -> Expr:
    """Error function, within 2 ulp."""

    def both(t: Expr) -> Expr:
        small = let(t * t, lambda s: t + t * polynomial(s, _ERF_SMALL))
        large = f32(1.0) - let(t * polynomial(t, _ERF_LARGE), _exp_in_range)
        return with_sign(tirx.Select(t > f32(_ERF_EDGE), large, small), x)

    return let(below(absolute(x), _ERF_END), both)


def gelu(x: Expr) -> Expr:
    """x * Phi(x), within 2.5e-7 of max(1, |x|)."""
    return _gated(x, _TAIL, _TAIL_END)


def gelu_tanh(x: Expr) -> Expr:
    """Gelu's approximation by tanh (Hendrycks and Gimpel 2016, section 2), as exact as `gelu`."""
    return _gated(x, _TANH_TAIL, _TANH_TAIL_END)


def _gated(x: Expr, root: Sequence[float], end: float) -> Expr:
    """max(x, 0) - t * root(t)^8 with t = |x|: what falls off like exp(-t^2) without exponentials.

    As Hastings (1955) has erf, with a power of a polynomial: there is nothing to cancel and nothing
    to divide. Three squarings raise a rounding of the root eightfold, where t * root^8 is small.
    """

    def joined(t: Expr) -> Expr:
        fourth = let(let(polynomial(t, root), lambda p: p * p), lambda p: p * p)
        tail = let(fourth, lambda p: p * p)
        return tirx.Select(x < f32(0.0), f32(0.0), x) - t * tail

    return let(below(absolute(x), end), joined)


def power(a: Expr, b: Expr) -> Expr:
    """a to the b, within 1 ulp: exponential of a logarithm, both in f64."""

    def combined(size: Expr) -> Expr:
        exponent = tirx.Cast("float64", b) * _log2_wide(size)
        value = let(exponent, _exp2_wide)
        return _power_limits(a, b, size, value)

    return let(absolute(a), combined)


def _log2_wide(x: Expr) -> Expr:
    """log2 of a positive f32, in f64: f32's smallest numbers are normal there."""

    def parts(shifted: Expr) -> Expr:
        mantissa = tirx.bitwise_and(shifted, tirx.const((1 << 52) - 1, "int64"))
        bits = mantissa + tirx.const(_ROOT_HALF_BITS_WIDE, "int64")
        whole = float_wide(tirx.shift_right(shifted, tirx.const(52, "int64")))
        m = tirx.reinterpret("float64", bits)
        z = (m - f64(1.0)) / (m + f64(1.0))
        return let(z, lambda y: whole + y * polynomial(y * y, _LOG2_WIDE))

    bits = tirx.reinterpret("int64", tirx.Cast("float64", x))
    return let(bits - tirx.const(_ROOT_HALF_BITS_WIDE, "int64"), parts)


def _exp2_wide(x: Expr) -> Expr:
    limited = tirx.Select(x > f64(160.0), f64(160.0), x)
    limited = tirx.Select(limited > f64(-160.0), limited, f64(-160.0))  # nan goes too

    def finish(shifted: Expr) -> Expr:
        biased = integer_wide(shifted) + tirx.const(1023, "int64")
        scale = tirx.reinterpret("float64", tirx.shift_left(biased, tirx.const(52, "int64")))
        r = limited - (shifted - f64(ROUNDER_WIDE))
        return let(r, lambda y: polynomial(y, _EXP2_WIDE)) * scale

    return tirx.Cast("float32", let(opaque(limited + f64(ROUNDER_WIDE)), finish))


def _power_limits(a: Expr, b: Expr, size: Expr, value: Expr) -> Expr:
    zero, one, endless = f32(0.0), f32(1.0), f32(INFINITY)
    whole = tirx.EQ(tirx.floor(b), b)
    odd = tirx.And(whole, tirx.NE(tirx.floor(b * f32(0.5)) * f32(2.0), b))
    edge = tirx.Or(tirx.EQ(size, zero), tirx.EQ(size, endless))
    falls = b < zero
    grows = tirx.Or(
        tirx.And(tirx.EQ(size, zero), falls), tirx.And(tirx.EQ(size, endless), tirx.Not(falls))
    )
    value = tirx.Select(edge, tirx.Select(grows, endless, zero), value)
    value = tirx.Select(tirx.EQ(size, one), one, value)
    value = tirx.Select(odd, with_sign(value, a), value)
    inside = tirx.And(size < endless, tirx.And(a < zero, tirx.Not(whole)))
    value = tirx.Select(inside, f32(NAN), value)
    number = tirx.And(a <= endless, b <= endless)  # false for nan
    value = tirx.Select(number, value, a + b)
    return tirx.Select(tirx.Or(tirx.EQ(b, zero), tirx.EQ(a, one)), one, value)
