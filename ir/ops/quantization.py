"""Between floats and small integers: real = (integer - zero) * scale, parameters as inputs.

A parameter has rank 0 (one for the tensor), or x's rank with extents that divide x's: element i of
an axis uses entry i // (extent / parameter's extent). So one entry per channel, one per group of 32
and one per tensor are one rule, and no attribute names an axis.

Each formula is f32 operations that every machine rounds alike, one after the other, none of which a
fused multiply-add could join: results are the same bits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optc.ir.dtype import DType
from optc.ir.ops.base import Op, Types, require
from optc.ir.types import TensorType

STORED = (DType.I8, DType.U8, DType.I4)
_FLOATS = (DType.F32, DType.F16, DType.BF16)


def limits(dtype: DType) -> tuple[int, int]:
    """The least and the largest integer of a dtype."""
    if dtype is DType.U8:
        return 0, 255
    return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1


@dataclass(frozen=True, slots=True)
class Quantize(Op):
    """saturate(rint(x * (1 / scale)) + zero), ties to even; nan gives the least integer.

    Inputs x (f32, f16 or bf16, computed in f32), scale (f32) and zero (of `dtype`). The reciprocal
    is rounded to f32 first, as PyTorch does it, so that a kernel divides once per parameter.
    """

    arity: ClassVar[tuple[int, int]] = (3, 3)
    dtype: DType = DType.I8

    def _infer(self, *inputs: TensorType) -> Types:
        x, scale, zero = inputs
        require(self.dtype in STORED, f"quantize gives i8, u8 or i4, not {self.dtype}")
        require(x.dtype in _FLOATS, f"quantize takes f32, f16 or bf16, not {x}")
        _check(x, scale, DType.F32, "scale")
        _check(x, zero, self.dtype, "zero")
        return (x.with_dtype(self.dtype),)


@dataclass(frozen=True, slots=True)
class Dequantize(Op):
    """(q - zero) * scale in f32, both operands of the difference converted first; then `dtype`.

    Inputs q (i8, u8, i4 or i32), scale (f32) and zero (of q's dtype).
    """

    arity: ClassVar[tuple[int, int]] = (3, 3)
    dtype: DType = DType.F32

    def _infer(self, *inputs: TensorType) -> Types:
        q, scale, zero = inputs
        require(self.dtype in _FLOATS, f"dequantize gives f32, f16 or bf16, not {self.dtype}")
        require(q.dtype in (*STORED, DType.I32), f"dequantize takes i8, u8, i4 or i32, not {q}")
        _check(q, scale, DType.F32, "scale")
        _check(q, zero, q.dtype, "zero")
        return (q.with_dtype(self.dtype),)


@dataclass(frozen=True, slots=True)
class Requantize(Op):
    """saturate(rint(f32(x) * multiplier) + zero), ties to even: sums of products to small integers.

    Inputs x (i32), multiplier (f32; scale of the factors over scale of the result) and zero (of
    `dtype`).
    """

    arity: ClassVar[tuple[int, int]] = (3, 3)
    dtype: DType = DType.I8

    def _infer(self, *inputs: TensorType) -> Types:
        x, multiplier, zero = inputs
        require(self.dtype in STORED, f"requantize gives i8, u8 or i4, not {self.dtype}")
        require(x.dtype is DType.I32, f"requantize takes i32, not {x}")
        _check(x, multiplier, DType.F32, "multiplier")
        _check(x, zero, self.dtype, "zero")
        return (x.with_dtype(self.dtype),)


def _check(x: TensorType, parameter: TensorType, dtype: DType, name: str) -> None:
    require(parameter.dtype is dtype, f"{name} is {dtype}, not {parameter}")
    fits = parameter.rank == 0 or (
        parameter.rank == x.rank
        and all(p > 0 and e % p == 0 for e, p in zip(x.shape, parameter.shape, strict=True))
    )
    require(fits, f"{name} {parameter} does not divide {x}: rank 0, or extents that divide")
