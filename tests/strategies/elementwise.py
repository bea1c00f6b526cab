"""Instances of elementwise ops, with broadcasting, every dtype they take, and special floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.ir.dtype import DType
from optc.ir.ops import ELEMENTWISE, UNARY, Op, ew
from optc.ir.types import TensorType
from tests.strategies.shapes import ANY, FLOATS, INTEGERS, NUMBERS, broadcastable, dtypes, shapes
from tests.strategies.values import Normal, Uniform, Values, Whole

Parts = tuple[Op, list[TensorType], list[Values]]

_BITS = (*INTEGERS, DType.BOOL)
_DTYPES: Mapping[type[Op], tuple[DType, ...]] = {
    **dict.fromkeys((ew.Abs, ew.Neg, ew.Sign, ew.Relu, ew.Clamp), NUMBERS),
    **dict.fromkeys((ew.BitwiseNot, ew.BitwiseAnd, ew.BitwiseOr, ew.BitwiseXor), _BITS),
    **dict.fromkeys((ew.ShiftLeft, ew.ShiftRight), INTEGERS),
    **dict.fromkeys((ew.Add, ew.Mul, ew.Maximum, ew.Minimum, ew.LogicalNot, ew.Cast), ANY),
    **dict.fromkeys((ew.Equal, ew.NotEqual, ew.Less, ew.LessEqual, ew.Greater), ANY),
    **dict.fromkeys((ew.GreaterEqual, ew.Where), ANY),
    **dict.fromkeys((ew.Sub, ew.FloorDiv, ew.TruncDiv, ew.Fmod, ew.Remainder, ew.Pow), NUMBERS),
    **dict.fromkeys((ew.IsInf, ew.IsNan), (*NUMBERS,)),
}
# Where a function is defined and well conditioned; elsewhere last bits say nothing.
_DOMAIN: Mapping[type[Op], Values] = {
    ew.Acos: Uniform(-0.95, 0.95),
    ew.Acosh: Uniform(1.1, 10.0),
    ew.Asin: Uniform(-0.95, 0.95),
    ew.Atanh: Uniform(-0.95, 0.95),
    ew.Cosh: Uniform(-5.0, 5.0),
    ew.Sinh: Uniform(-5.0, 5.0),
    ew.Exp: Uniform(-10.0, 9.0),
    ew.Expm1: Uniform(-5.0, 5.0),
    ew.Log: Uniform(0.01, 50.0),
    ew.Log10: Uniform(0.01, 50.0),
    ew.Log2: Uniform(0.01, 50.0),
    ew.Log1p: Uniform(-0.9, 20.0),
    ew.Rsqrt: Uniform(0.01, 50.0),
    ew.Sqrt: Uniform(0.0, 50.0),
    ew.Tan: Uniform(-1.3, 1.3),
    ew.Reciprocal: Uniform(0.1, 10.0),
}
_ATTRIBUTES: Mapping[type[Op], Callable[[DrawFn, DType], Op]] = {
    ew.Gelu: lambda draw, _: ew.Gelu(draw(st.booleans())),
    ew.LeakyRelu: lambda draw, _: ew.LeakyRelu(draw(st.sampled_from((0.01, 0.2)))),
    ew.Elu: lambda draw, _: draw(
        st.sampled_from((ew.Elu(), ew.Elu(1.673, 1.0507), ew.Elu(2.0, 1.0, 0.5)))
    ),
    ew.Softplus: lambda draw, _: draw(st.sampled_from((ew.Softplus(), ew.Softplus(2.0, 5.0)))),
    ew.Clamp: lambda draw, dtype: _clamp(draw, dtype),
}


def _clamp(draw: DrawFn, dtype: DType) -> ew.Clamp:
    low, high = draw(st.sampled_from(((0, 6), (None, 2), (1, None), (2, 1))))
    if dtype.is_float:
        return ew.Clamp(*(None if bound is None else bound + 0.5 for bound in (low, high)))
    return ew.Clamp(low, high)


def _unary(draw: DrawFn, kind: type[Op]) -> Parts:
    dtype = draw(dtypes(_DTYPES.get(kind, FLOATS)))
    op = _ATTRIBUTES[kind](draw, dtype) if kind in _ATTRIBUTES else kind()
    # torch itself is of two minds about gelu(-inf), by whether its vector or its scalar loop runs.
    special = kind is not ew.Gelu and draw(st.booleans())
    values = Normal(special=True) if special else _DOMAIN.get(kind, Normal())
    return op, [TensorType(draw(shapes()), dtype)], [values]


def _cast(draw: DrawFn, _: type[Op]) -> Parts:
    dtype, target = draw(dtypes((*ANY, DType.I4))), draw(dtypes((*ANY, DType.I4)))
    values: Values = Whole(-8, 7) if dtype is DType.I4 else Normal()
    if dtype.is_float and not target.is_float:
        # C leaves the others undefined.
        values = Uniform(0.0, 7.9) if target is DType.U8 else Uniform(-8.9, 7.9)
    return ew.Cast(target), [TensorType(draw(shapes()), dtype)], [values]


_DIVISIONS = (ew.Div, ew.FloorDiv, ew.TruncDiv, ew.Fmod, ew.Remainder)


def _binary(draw: DrawFn, kind: type[Op]) -> Parts:
    dtype = draw(dtypes(_DTYPES.get(kind, FLOATS)))
    values: list[Values] = [Normal(special=draw(st.booleans()))] * 2
    if kind in _DIVISIONS and not dtype.is_float:
        low = 0 if dtype is DType.U8 else -9
        values = [Whole(3 * low, 30), Whole(low, 9, nonzero=True)]
    elif kind in _DIVISIONS:
        values = [Normal(), Uniform(0.3, 4.0)] if draw(st.booleans()) else [Normal(), Normal()]
        values = [values[0], Whole(-4, 4, nonzero=True)] if draw(st.booleans()) else values
    elif kind in (ew.ShiftLeft, ew.ShiftRight):
        values = [Normal(), Whole(0 if dtype is DType.U8 else -2, dtype.bits + 2)]
    elif kind is ew.Pow:
        values = [Uniform(0.1, 4.0), Uniform(-3.0, 3.0)]
        if not dtype.is_float:
            low = 0 if dtype is DType.U8 else -3
            values = [Whole(low, 5), Whole(low, 9)]
    shape = draw(shapes())
    types = [TensorType(draw(broadcastable(shape)), dtype) for _ in range(2)]
    return kind(), types, values


def _where(draw: DrawFn, _: type[Op]) -> Parts:
    dtype, shape = draw(dtypes(ANY)), draw(shapes())
    kinds = (DType.BOOL, dtype, dtype)
    types = [TensorType(draw(broadcastable(shape)), kind) for kind in kinds]
    return ew.Where(), types, [Normal(), Normal(special=True), Normal(special=True)]


MAKERS: Mapping[type[Op], Callable[[DrawFn, type[Op]], Parts]] = {
    **dict.fromkeys(ELEMENTWISE, _binary),
    **dict.fromkeys(UNARY, _unary),
    ew.Cast: _cast,
    ew.Where: _where,
}
