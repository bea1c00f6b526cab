"""Instances of quantization ops, and of products of bytes: parameters per tensor, axis or block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.ir.dtype import DType
from optc.ir.ops import Dequantize, Op, Quantize, Requantize
from optc.ir.ops.contraction import BYTES
from optc.ir.ops.quantization import STORED, limits
from optc.ir.types import TensorType
from tests.strategies.shapes import dtypes, shapes
from tests.strategies.values import Normal, Uniform, Values, Whole

Parts = tuple[Op, list[TensorType], list[Values]]
_FLOATS = (DType.F32, DType.F32, DType.F16, DType.BF16)


def parameter(draw: DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that divides `shape`, or ()."""
    if draw(st.booleans()):
        return ()
    return tuple(
        draw(st.sampled_from([n for n in range(1, dim + 1) if dim % n == 0])) for dim in shape
    )


def whole(dtype: DType) -> Whole:
    """Any integers of a dtype."""
    return Whole(*limits(dtype))


def _quantization(draw: DrawFn, kind: type[Op]) -> Parts:
    shape, stored = draw(shapes()), draw(dtypes(STORED))
    result: DType = draw(dtypes(_FLOATS))
    scale, zero = parameter(draw, shape), parameter(draw, shape)
    if kind is Quantize:
        x, values, op = result, Normal(3.0, special=draw(st.booleans())), Quantize(stored)
        factor: Values = Uniform(0.01, 0.1)
    elif kind is Requantize:
        x, values, op = DType.I32, Whole(-50_000, 50_000), Requantize(stored)
        factor = Uniform(1e-4, 1e-2)
    else:
        stored = draw(dtypes((*STORED, DType.I32)))
        many = Whole(-1_000_000, 1_000_000) if stored is DType.I32 else whole(stored)
        x, values, op, factor = stored, many, Dequantize(result), Uniform(0.01, 0.1)
    zeros = Whole(-9, 9) if stored is DType.I32 else whole(stored)
    types = [TensorType(shape, x), TensorType(scale, DType.F32), TensorType(zero, stored)]
    return op, types, [values, factor, zeros]


Draw = Callable[[DrawFn, type[Op]], Parts]


def sometimes_bytes(make: Draw, *, weight: Sequence[DType] = (DType.I8,)) -> Draw:
    """A maker of products whose instances are of bytes one time in four."""

    def made(draw: DrawFn, kind: type[Op]) -> Parts:
        op, types, values = make(draw, kind)
        if draw(st.integers(0, 3)):
            return op, types, values
        kinds = [draw(dtypes(BYTES)), draw(dtypes(weight)), DType.I32][: len(types)]
        types = [type.with_dtype(dtype) for type, dtype in zip(types, kinds, strict=True)]
        values = [Whole(-9999, 9999) if d is DType.I32 else whole(d) for d in kinds]
        return op, types, values

    return made


MAKERS: Mapping[type[Op], Draw] = dict.fromkeys((Quantize, Dequantize, Requantize), _quantization)
