"""Functions of one float, in f32 or f64: the one place that says how each is computed.

f16 and bf16 never arrive here: their elements are widened when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.element import choose, const
from optc.backends.tvm.lower.fast import FAST
from optc.ir.dtype import DType

Function = Callable[[Expr, DType], Expr]


def _intrinsic(function: Callable[[Expr], Expr]) -> Function:
    return lambda x, _: function(x)


def _llvm(name: str) -> Function:
    """An LLVM intrinsic; LLVM takes vectors apart for C's library itself.

    TVM's own calls of C functions break in vector loops whose values have names.
    """
    return lambda x, _: tirx.call_llvm_pure_intrin(str(x.ty), f"llvm.{name}", x)


def _sigmoid(x: Expr, dtype: DType) -> Expr:
    one = const(1.0, dtype)
    return one / (one + exp(-x, dtype))


def _reciprocal(x: Expr, dtype: DType) -> Expr:
    return const(1.0, dtype) / x


def _expm1(x: Expr, dtype: DType) -> Expr:
    """Kahan's correction: what rounding did to exp(x) is undone by its logarithm."""
    one, power = const(1.0, dtype), exp(x, dtype)
    shifted = power - one
    near = shifted * x / log(power, dtype)
    saturated = tirx.any(shifted == -one, power == const(float("inf"), dtype))
    return choose(power == one, x, choose(saturated, shifted, near))


def _log1p(x: Expr, dtype: DType) -> Expr:
    """Kahan's correction: the logarithm of what 1 + x was rounded to, scaled to x."""
    one = const(1.0, dtype)
    shifted = one + x
    near = log(shifted, dtype) * x / (shifted - one)
    endless = shifted == const(float("inf"), dtype)
    return choose(shifted == one, x, choose(endless, shifted, near))


def _atanh(x: Expr, dtype: DType) -> Expr:
    doubled = const(2.0, dtype) * x / (const(1.0, dtype) - x)
    return const(0.5, dtype) * _log1p(doubled, dtype)


FUNCTION: Mapping[str, Function] = {
    "acos": _llvm("acos"),
    "acosh": _intrinsic(tirx.acosh),
    "asin": _llvm("asin"),
    "asinh": _intrinsic(tirx.asinh),
    "atan": _llvm("atan"),
    "atanh": _atanh,
    "ceil": _intrinsic(tirx.ceil),
    "cos": _intrinsic(tirx.cos),
    "cosh": _llvm("cosh"),
    "erf": _intrinsic(tirx.erf),
    "exp": _intrinsic(tirx.exp),
    "expm1": _expm1,
    "floor": _intrinsic(tirx.floor),
    "log": _intrinsic(tirx.log),
    "log10": _intrinsic(tirx.log10),
    "log1p": _log1p,
    "log2": _intrinsic(tirx.log2),
    "reciprocal": _reciprocal,
    "round": _intrinsic(tirx.nearbyint),
    "rsqrt": lambda x, dtype: const(1.0, dtype) / tirx.sqrt(x),
    "sigmoid": _sigmoid,
    "sin": _intrinsic(tirx.sin),
    "sinh": _llvm("sinh"),
    "sqrt": _intrinsic(tirx.sqrt),
    "tan": _llvm("tan"),
    "tanh": _llvm("tanh"),
    "trunc": _intrinsic(tirx.trunc),
}


def apply(name: str, x: Expr, dtype: DType) -> Expr:
    """The named function of `x`, an f32 or f64 expression."""
    if dtype is DType.F32 and name in FAST:
        return FAST[name](x)
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


def fmod(a: Expr, b: Expr) -> Expr:
    """Remainder with the sign of a."""
    return tirx.Mod(a, b)


def power(a: Expr, b: Expr) -> Expr:
    """a to the b."""
    if str(a.ty) == "float32":
        return FAST["power"](a, b)
    return tirx.power(a, b)


def atan2(y: Expr, x: Expr) -> Expr:
    """Angle of the point (x, y)."""
    if str(y.ty) == "float32":
        return FAST["atan2"](y, x)
    return tirx.call_llvm_pure_intrin(str(y.ty), "llvm.atan2", y, x)


def gelu(x: Expr, dtype: DType) -> Expr:
    """x * Phi(x)."""
    if dtype is DType.F32:
        return FAST["gelu"](x)
    half, one = const(0.5, dtype), const(1.0, dtype)
    return x * half * (one + apply("erf", x * const(math.sqrt(0.5), dtype), dtype))


def gelu_tanh(x: Expr, dtype: DType) -> Expr:
    """Gelu's approximation by tanh (Hendrycks and Gimpel 2016, section 2)."""
    if dtype is DType.F32:
        return FAST["gelu_tanh"](x)
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
