"""Which functions of f32 have a form of ours for vector registers; others are LLVM's or C's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm.ir import Expr

from optc.backends.tvm.lower import fastmath, fasttrig

FAST: Mapping[str, Callable[..., Expr]] = {
    "acos": fasttrig.acos,
    "acosh": fastmath.acosh,
    "asin": fasttrig.asin,
    "asinh": fastmath.asinh,
    "atan": fasttrig.atan,
    "atan2": fasttrig.atan2,
    "atanh": fastmath.atanh,
    "cos": fasttrig.cos,
    "cosh": fastmath.cosh,
    "erf": fastmath.erf,
    "exp": fastmath.exp,
    "expm1": fastmath.expm1,
    "gelu": fastmath.gelu,
    "gelu_tanh": fastmath.gelu_tanh,
    "log": fastmath.log,
    "log10": fastmath.log10,
    "log1p": fastmath.log1p,
    "log2": fastmath.log2,
    "power": fastmath.power,
    "sigmoid": fastmath.sigmoid,
    "sin": fasttrig.sin,
    "sinh": fastmath.sinh,
    "tan": fasttrig.tan,
    "tanh": fastmath.tanh,
}
