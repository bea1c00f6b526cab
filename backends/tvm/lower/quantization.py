"""Quantize, dequantize and requantize: one f32 operation after the other, as the ops say.

They jump where their input changes a little, so they read it as it lies in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm import te
from tvm.ir import Expr

from optc.backends.tvm.lower import functions as fn
from optc.backends.tvm.lower.element import (
    Lowering,
    Read,
    cast,
    choose,
    compute,
    const,
    i32,
    quotient,
    reader,
    stored,
)
from optc.ir.dtype import DType
from optc.ir.ops import Dequantize, Op, Quantize, Requantize
from optc.ir.ops.quantization import limits
from optc.ir.types import TensorType

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]


def entry(tensor: te.Tensor, type: TensorType, shape: Sequence[int]) -> Read:
    """Reads the entry of a parameter that an element of a tensor of `shape` uses."""
    read = reader(tensor, type)

    def at(*index: Expr) -> Expr:
        if type.rank == 0:
            return read()
        triples = zip(index, type.shape, shape, strict=True)
        return read(*(_block(place, entries, extent) for place, entries, extent in triples))

    return at


def _block(place: Expr, entries: int, extent: int) -> Expr:
    return i32(0) if entries == 1 else quotient(place, extent // entries, extent)


def saturated(scaled: Expr, zero: Expr, dtype: DType) -> Expr:
    """rint(scaled) + zero within the limits of `dtype`; nan, which is not above, is the least.

    The limits are whole numbers, so that clamping first and rounding then is the same; what is
    rounded fits an i32, into which x86 rounds with one instruction.
    """
    least, most = (const(float(n), DType.F32) - cast(zero, DType.F32) for n in limits(dtype))
    held = choose(scaled > least, scaled, least)
    held = choose(held < most, held, most)
    whole = cast(fn.apply("round", held, DType.F32), DType.I32)
    return cast(whole + cast(zero, DType.I32), dtype)


def _quantize(op: Quantize, tensors: Tensors, types: Types) -> Tensors:
    x, (scale, zero) = stored(tensors[0], types[0]), _parameters(tensors, types)
    (result,), one = op.infer(*types), const(1.0, DType.F32)

    def element(*index: Expr) -> Expr:
        return saturated(x(*index) * (one / scale(*index)), zero(*index), op.dtype)

    return [compute(op.name, result, element)]


def _requantize(op: Requantize, tensors: Tensors, types: Types) -> Tensors:
    x, (multiplier, zero) = reader(tensors[0], types[0]), _parameters(tensors, types)
    (result,) = op.infer(*types)

    def element(*index: Expr) -> Expr:
        scaled = cast(x(*index), DType.F32) * multiplier(*index)
        return saturated(scaled, zero(*index), op.dtype)

    return [compute(op.name, result, element)]


def _dequantize(op: Dequantize, tensors: Tensors, types: Types) -> Tensors:
    q, (scale, zero) = reader(tensors[0], types[0]), _parameters(tensors, types)
    (result,) = op.infer(*types)

    def element(*index: Expr) -> Expr:
        moved = cast(q(*index), DType.F32) - cast(zero(*index), DType.F32)
        return moved * scale(*index)

    return [compute(op.name, result, element)]


def _parameters(tensors: Tensors, types: Types) -> tuple[Read, Read]:
    shape = types[0].shape
    scale, zero = (
        entry(tensor, type, shape) for tensor, type in zip(tensors[1:], types[1:], strict=True)
    )
    return scale, zero


LOWER: Mapping[type[Op], Lowering] = {
    Quantize: _quantize,
    Dequantize: _dequantize,
    Requantize: _requantize,
}
