"""What TVM's vector loops and LLVM backend take, and rewrites for what they do not.

TVM unrolls a vector loop into scalar code around calls it does not know to be lane-wise, gets that
wrong for bound values, folds `x != x` to false, and has no LLVM form for some calls it offers.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr, TensorLoad


def is_nan(x: Expr) -> Expr:
    """Whether a float is not a number, by its bits: comparing it with itself is folded away."""
    magnitude, infinity = _bits(x)
    return tirx.GT(magnitude, infinity)


def legal_call(call: Call) -> Expr:
    """The same value through calls that compile; the call itself if it does."""
    if call.op.name == "tirx.reinterpret" and _is_rounding(call.args[0]):
        return bf16_bits(call.args[0].value)
    rewrite = _REWRITES.get(call.op.name)
    return rewrite(*call.args) if rewrite else call


def legal(item: tvm_ffi.Object) -> tvm_ffi.Object:
    """A statement or expression with all its calls made legal."""

    def visit(call: Call, mutator: tvm_ffi.StructuralMutator) -> Expr:
        return legal_call(mutator.default_mutate(call))

    return tvm_ffi.structural_mutate(item, (Call, visit))


def can_be_bound(value: Expr) -> bool:
    """Whether `Bind` outside of vector loops keeps the value as it is.

    What reads no memory is copied to its uses, which is right for indices only. TVM's bf16 passes
    overlook it.
    """
    if str(value.ty) == "int32":
        return True

    def load(_: TensorLoad) -> tvm_ffi.VisitInterrupt:
        return tvm_ffi.VisitInterrupt(True)

    def half(item: Expr) -> tvm_ffi.VisitInterrupt | None:
        return tvm_ffi.VisitInterrupt(True) if str(item.ty) == "bfloat16" else None

    if tvm_ffi.structural_walk(value, (TensorLoad, load)) is None:
        return False
    return tvm_ffi.structural_walk(value, ((TensorLoad, tirx.Cast), half)) is None


def _bits(x: Expr) -> tuple[Expr, Expr]:
    """Magnitude of a float as an integer, and that of infinity."""
    if x.ty.dtype == "float64":
        whole, mask, infinity = "int64", (1 << 63) - 1, 0x7FF << 52
    else:
        x = x if x.ty.dtype == "float32" else tirx.Cast("float32", x)
        whole, mask, infinity = "int32", (1 << 31) - 1, 0xFF << 23
    bits = tirx.bitwise_and(tirx.reinterpret(whole, x), tirx.const(mask, whole))
    return bits, tirx.const(infinity, whole)


def _is_rounding(x: Expr) -> bool:
    return isinstance(x, tirx.Cast) and str(x.ty) == "bfloat16"


def bf16_bits(x: Expr) -> Expr:
    """Bits of an f32 rounded to bf16, halves to even: TVM has no form of it inside expressions."""
    bits, sixteen = tirx.reinterpret("uint32", x), tirx.const(16, "uint32")
    odd = tirx.bitwise_and(tirx.shift_right(bits, sixteen), tirx.const(1, "uint32"))
    upper = tirx.shift_right(bits + (odd + tirx.const(0x7FFF, "uint32")), sixteen)
    return tirx.Cast("uint16", upper)


def _is_inf(x: Expr) -> Expr:
    magnitude, infinity = _bits(x)
    return tirx.EQ(magnitude, infinity)


def _is_finite(x: Expr) -> Expr:
    magnitude, infinity = _bits(x)
    return tirx.LT(magnitude, infinity)


def _llvm(name: str) -> Callable[..., Expr]:
    return lambda *x: tirx.call_llvm_pure_intrin(x[0].ty.dtype, name, *x)


def _libm(name: str) -> Callable[..., Expr]:
    def call(*x: Expr) -> Expr:
        dtype = x[0].ty.dtype
        return tirx.call_pure_extern(dtype, name if dtype == "float64" else f"{name}f", *x)

    return call


_REWRITES: dict[str, Callable[..., Expr]] = {
    "tirx.isnan": is_nan,
    "tirx.isinf": _is_inf,
    "tirx.isfinite": _is_finite,
    "tirx.nearbyint": _llvm("llvm.nearbyint"),
    "tirx.copysign": _llvm("llvm.copysign"),
    "tirx.rsqrt": lambda x: tirx.const(1.0, x.ty.dtype) / tirx.sqrt(x),
    "tirx.fmod": _libm("fmod"),
    **{
        f"tirx.{name}": _libm(name)
        for name in ("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "erf", "log1p")
    },
    **{f"tirx.{name}": _libm(name) for name in ("cosh", "sinh", "tan")},
}
