"""Functions of one float, in f32 or f64: the one place that says how each is computed.

f16 and bf16 never arrive here: their elements are widened when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.element import choose, const
from optc.ir.dtype import DType

Function = Callable[[Expr, DType], Expr]


def _intrinsic(function: Callable[[Expr], Expr]) -> Function:
    return lambda x, _: function(x)


def _libm(name: str) -> Function:
    """A function of C's math library that TVM has no intrinsic for."""

    def call(x: Expr, dtype: DType) -> Expr:
        suffix = "" if dtype is DType.F64 else "f"
        return tirx.call_pure_extern(str(x.ty), name + suffix, x)

    return call


def _sigmoid(x: Expr, dtype: DType) -> Expr:
    one = const(1.0, dtype)
    return one / (one + exp(-x, dtype))


def _reciprocal(x: Expr, dtype: DType) -> Expr:
    return const(1.0, dtype) / x


def _tanh(x: Expr, dtype: DType) -> Expr:
    # tanh(x) = 1 - 2 / (exp(2x) + 1) loses digits near 0, where an odd polynomial is exact enough.
    return _libm("tanh")(x, dtype)


FUNCTION: Mapping[str, Function] = {
    "acos": _libm("acos"),
    "acosh": _libm("acosh"),
    "asin": _libm("asin"),
    "asinh": _libm("asinh"),
    "atan": _libm("atan"),
    "atanh": _libm("atanh"),
    "ceil": _intrinsic(tirx.ceil),
    "cos": _intrinsic(tirx.cos),
    "cosh": _libm("cosh"),
    "erf": _libm("erf"),
    "exp": _intrinsic(tirx.exp),
    "expm1": _libm("expm1"),
    "floor": _intrinsic(tirx.floor),
    "log": _intrinsic(tirx.log),
    "log10": _intrinsic(tirx.log10),
    "log1p": _libm("log1p"),
    "log2": _intrinsic(tirx.log2),
    "reciprocal": _reciprocal,
    "round": _intrinsic(tirx.nearbyint),
    "rsqrt": lambda x, dtype: const(1.0, dtype) / tirx.sqrt(x),
    "sigmoid": _sigmoid,
    "sin": _intrinsic(tirx.sin),
    "sinh": _libm("sinh"),
    "sqrt": _intrinsic(tirx.sqrt),
    "tan": _libm("tan"),
    "tanh": _tanh,
    "trunc": _intrinsic(tirx.trunc),
}


def apply(name: str, x: Expr, dtype: DType) -> Expr:
    """The named function of `x`, an f32 or f64 expression."""
    return FUNCTION[name](x, dtype)


def exp(x: Expr, dtype: DType) -> Expr:
    """e to the x."""
    return apply("exp", x, dtype)


def log(x: Expr, dtype: DType) -> Expr:
    """Natural logarithm."""
    return apply("log", x, dtype)


def sqrt(x: Expr, dtype: DType) -> Expr:
    """Square root."""
    return apply("sqrt", x, dtype)


def tanh(x: Expr, dtype: DType) -> Expr:
    """Hyperbolic tangent."""
    return apply("tanh", x, dtype)


def sigmoid(x: Expr, dtype: DType) -> Expr:
    """1 / (1 + exp(-x))."""
    return apply("sigmoid", x, dtype)


def fmod(a: Expr, b: Expr, dtype: DType) -> Expr:
    """Remainder with the sign of a."""
    return tirx.call_pure_extern(str(a.ty), "fmod" if dtype is DType.F64 else "fmodf", a, b)


def power(a: Expr, b: Expr, dtype: DType) -> Expr:
    """a to the b."""
    return tirx.call_pure_extern(str(a.ty), "pow" if dtype is DType.F64 else "powf", a, b)


def atan2(y: Expr, x: Expr, dtype: DType) -> Expr:
    """Angle of the point (x, y)."""
    return tirx.call_pure_extern(str(y.ty), "atan2" if dtype is DType.F64 else "atan2f", y, x)


def gelu(x: Expr, dtype: DType) -> Expr:
    """x * Phi(x)."""
    half, one = const(0.5, dtype), const(1.0, dtype)
    return x * half * (one + apply("erf", x * const(math.sqrt(0.5), dtype), dtype))


def gelu_tanh(x: Expr, dtype: DType) -> Expr:
    """Gelu's approximation by tanh (Hendrycks and Gimpel 2016, section 2)."""
    inner = x + const(0.044715, dtype) * x * x * x
    scaled = const(math.sqrt(2.0 / math.pi), dtype) * inner
    return const(0.5, dtype) * x * (const(1.0, dtype) + tanh(scaled, dtype))


def log1p(x: Expr, dtype: DType) -> Expr:
    """log(1 + x), exact near 0."""
    return apply("log1p", x, dtype)


def copysign(magnitude: Expr, sign: Expr, dtype: DType) -> Expr:
    """|magnitude| with the sign of `sign`, of which zero is positive."""
    zero = const(0.0, dtype)
    positive = choose(magnitude < zero, -magnitude, magnitude)
    return choose(sign < zero, -positive, positive)
