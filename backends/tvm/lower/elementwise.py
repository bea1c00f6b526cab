"""Elementwise ops: one expression per element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tvm import te, tirx
from tvm.ir import Expr

from optc.backends.tvm.lower import functions as fn
from optc.backends.tvm.lower import integers
from optc.backends.tvm.lower.element import (
    Lowering,
    Read,
    cast,
    choose,
    compute,
    const,
    differ,
    is_nan,
    maximum,
    minimum,
    move,
    not_equal,
    pinned,
    reader,
    sign_of_nibble,
    stored,
    wide,
)
from optc.ir.dtype import DType, Kind
from optc.ir.ops import Op, ew
from optc.ir.types import TensorType

Formula = Callable[..., Expr]


def _lower(formula: Formula, *, read: Callable[[te.Tensor, TensorType], Read] = reader) -> Lowering:
    """The lowering of an op whose elements are `formula(op, dtype, *elements)`, all wide."""

    def lower(
        op: Op, tensors: Sequence[te.Tensor], types: Sequence[TensorType]
    ) -> Sequence[te.Tensor]:
        (result,) = op.infer(*types)
        reads = [read(tensor, type) for tensor, type in zip(tensors, types, strict=True)]
        shapes = [type.shape for type in types]
        dtype = wide(types[-1].dtype)

        def element(*index: Expr) -> Expr:
            pairs = zip(reads, shapes, strict=True)
            return formula(op, dtype, *(get(*pinned(index, shape)) for get, shape in pairs))

        return [compute(op.name, result, element)]

    return lower


def _function(name: str) -> Lowering:
    return _lower(lambda _, dtype, x: fn.apply(name, x, dtype))


def _jump(formula: Formula) -> Lowering:
    """An op that jumps: it reads its inputs as they would lie in memory."""
    return _lower(formula, read=stored)


def _abs(_: Op, dtype: DType, x: Expr) -> Expr:
    if dtype.kind is Kind.UNSIGNED:
        return x
    return tirx.abs(x) if dtype.is_float else choose(x < const(0, dtype), const(0, dtype) - x, x)


def _neg(_: Op, dtype: DType, x: Expr) -> Expr:
    # 0 - x is not -x for a float zero.
    return x * const(-1.0, dtype) if dtype.is_float else const(0, dtype) - x


def _sign(_: Op, dtype: DType, x: Expr) -> Expr:
    zero, one = const(0, dtype), const(1, dtype)
    if dtype.kind is Kind.UNSIGNED:
        return choose(x > zero, one, zero)
    return choose(x > zero, one, choose(x < zero, const(-1, dtype), zero))


def _relu(_: Op, dtype: DType, x: Expr) -> Expr:
    zero = const(0, dtype)
    return choose(x < zero, zero, x)


def _clamp(op: ew.Clamp, dtype: DType, x: Expr) -> Expr:
    if op.low is not None:
        low = const(op.low if dtype.is_float else int(op.low), dtype)
        x = choose(x < low, low, x)
    if op.high is not None:
        high = const(op.high if dtype.is_float else int(op.high), dtype)
        x = choose(x > high, high, x)
    return x


def _hard_sigmoid(_: Op, dtype: DType, x: Expr) -> Expr:
    zero, six = const(0.0, dtype), const(6.0, dtype)
    shifted = x + const(3.0, dtype)
    clamped = choose(shifted < zero, zero, choose(shifted > six, six, shifted))
    return clamped * const(1.0 / 6.0, dtype)


def _hard_swish(op: Op, dtype: DType, x: Expr) -> Expr:
    return x * _hard_sigmoid(op, dtype, x)


def _leaky_relu(op: ew.LeakyRelu, dtype: DType, x: Expr) -> Expr:
    return choose(x > const(0.0, dtype), x, x * const(op.slope, dtype))


def _elu(op: ew.Elu, dtype: DType, x: Expr) -> Expr:
    grown = fn.apply("expm1", x * const(op.input_scale, dtype), dtype)
    below = const(op.alpha * op.scale, dtype) * grown
    return choose(x > const(0.0, dtype), const(op.scale, dtype) * x, below)


def _softplus(op: ew.Softplus, dtype: DType, x: Expr) -> Expr:
    scaled = x * const(op.beta, dtype)
    soft = fn.log1p(fn.exp(scaled, dtype), dtype) / const(op.beta, dtype)
    return choose(scaled > const(op.threshold, dtype), x, soft)


def _gelu(op: ew.Gelu, dtype: DType, x: Expr) -> Expr:
    return fn.gelu_tanh(x, dtype) if op.tanh else fn.gelu(x, dtype)


def _is_inf(_: Op, dtype: DType, x: Expr) -> Expr:
    if not dtype.is_float:
        return const(False, DType.BOOL)
    return tirx.any(x == const(float("inf"), dtype), x == const(float("-inf"), dtype))


def _logical_not(_: Op, dtype: DType, x: Expr) -> Expr:
    return tirx.Not(x) if dtype is DType.BOOL else x == const(0, dtype)


def _bitwise_not(_: Op, dtype: DType, x: Expr) -> Expr:
    return tirx.Not(x) if dtype is DType.BOOL else tirx.bitwise_not(x)


def _bitwise(on_bits: Formula, on_bools: Formula) -> Lowering:
    def formula(_: Op, dtype: DType, a: Expr, b: Expr) -> Expr:
        return on_bools(a, b) if dtype is DType.BOOL else on_bits(a, b)

    return _lower(formula)


def _add(_: Op, dtype: DType, a: Expr, b: Expr) -> Expr:
    return tirx.Or(a, b) if dtype is DType.BOOL else a + b


def _mul(_: Op, dtype: DType, a: Expr, b: Expr) -> Expr:
    return tirx.And(a, b) if dtype is DType.BOOL else a * b


def _floor_div(_: Op, dtype: DType, a: Expr, b: Expr) -> Expr:
    return _float_floor_div(dtype, a, b) if dtype.is_float else integers.floor_div(dtype, a, b)


def _float_floor_div(dtype: DType, a: Expr, b: Expr) -> Expr:
    """Python's floor division, as torch has it: exact where a / b would be rounded up."""
    zero, one = const(0.0, dtype), const(1.0, dtype)
    rest = fn.fmod(a, b)
    opposite = tirx.all(rest != zero, differ(b < zero, rest < zero))
    ratio = (a - rest) / b
    ratio = choose(opposite, ratio - one, ratio)
    below = tirx.floor(ratio)
    whole = choose(ratio - below > const(0.5, dtype), below + one, below)
    result = choose(ratio == zero, fn.copysign(zero, a / b, dtype), whole)
    return choose(b == zero, a / b, result)


def _trunc_div(_: Op, dtype: DType, a: Expr, b: Expr) -> Expr:
    return tirx.trunc(a / b) if dtype.is_float else integers.trunc_div(dtype, a, b)


def _fmod(_: Op, dtype: DType, a: Expr, b: Expr) -> Expr:
    return fn.fmod(a, b) if dtype.is_float else a - b * integers.trunc_div(dtype, a, b)


def _remainder(_: Op, dtype: DType, a: Expr, b: Expr) -> Expr:
    if not dtype.is_float:
        return a - b * integers.floor_div(dtype, a, b)
    zero, rest = const(0.0, dtype), fn.fmod(a, b)
    opposite = tirx.all(rest != zero, differ(b < zero, rest < zero))
    return choose(opposite, rest + b, rest)


def _pow(_: Op, dtype: DType, a: Expr, b: Expr) -> Expr:
    return fn.power(a, b) if dtype.is_float else integers.power(dtype, a, b)


def _compare(compare: Callable[[Expr, Expr], Expr]) -> Lowering:
    def formula(_: Op, dtype: DType, a: Expr, b: Expr) -> Expr:
        return compare(_comparable(dtype, a), _comparable(dtype, b))

    return _jump(formula)


def _comparable(dtype: DType, item: Expr) -> Expr:
    return cast(item, DType.I8) if dtype is DType.BOOL else item


def _not_equal(_: Op, dtype: DType, a: Expr, b: Expr) -> Expr:
    return not_equal(_comparable(dtype, a), _comparable(dtype, b), dtype)


def _where(
    op: ew.Where, tensors: Sequence[te.Tensor], types: Sequence[TensorType]
) -> Sequence[te.Tensor]:
    (result,) = op.infer(*types)
    reads = [reader(tensor, type) for tensor, type in zip(tensors, types, strict=True)]

    def element(*index: Expr) -> Expr:
        condition, yes, no = (
            read(*pinned(index, type.shape)) for read, type in zip(reads, types, strict=True)
        )
        return choose(condition, yes, no)

    return [compute("where", result, element)]


def _cast(
    op: ew.Cast, tensors: Sequence[te.Tensor], types: Sequence[TensorType]
) -> Sequence[te.Tensor]:
    (source,), (result,) = types, op.infer(*types)
    smooth = result.dtype.is_float
    read = (reader if smooth else stored)(tensors[0], source)
    formula = converter(source.dtype, result.dtype)
    if wide(result.dtype) is result.dtype:
        return [move("cast", result.shape, lambda *index: formula(read(*index)))]
    return [compute("cast", result, lambda *index: formula(read(*index)))]


def converter(source: DType, target: DType) -> Callable[[Expr], Expr]:
    """Conversion of a wide element of `source` to the wide dtype of `target`, as C does it."""
    source, goal = wide(source), wide(target)
    if goal is DType.BOOL:
        return (
            (lambda x: x)
            if source is DType.BOOL
            else (lambda x: not_equal(x, const(0, source), source))
        )
    if goal is DType.I4:
        narrow = converter(source, DType.I8)
        return lambda x: sign_of_nibble(narrow(x))
    if source is goal:
        return lambda x: x
    if source.is_float and goal.bits < 32:
        # Out-of-range floats wrap through i32, as torch's do; straight to 8 bits is undefined.
        return lambda x: cast(cast(x, DType.I32), goal)
    return lambda x: cast(x, goal)


_UNARY_NAMES: Mapping[type[Op], str] = {
    kind: kind.__name__.lower()
    for kind in (
        ew.Acos, ew.Acosh, ew.Asin, ew.Asinh, ew.Atan, ew.Atanh, ew.Cos, ew.Cosh, ew.Erf, ew.Exp,
        ew.Expm1, ew.Log, ew.Log10, ew.Log1p, ew.Log2, ew.Reciprocal, ew.Rsqrt, ew.Sigmoid, ew.Sin,
        ew.Sinh, ew.Sqrt, ew.Tan, ew.Tanh,
    )
}  # fmt: skip


def _rounding(name: str) -> Lowering:
    return _jump(lambda _, dtype, x: fn.apply(name, x, dtype))


LOWER: Mapping[type[Op], Lowering] = {
    **{kind: _function(name) for kind, name in _UNARY_NAMES.items()},
    ew.Ceil: _rounding("ceil"),
    ew.Floor: _rounding("floor"),
    ew.Round: _rounding("round"),
    ew.Trunc: _rounding("trunc"),
    ew.Abs: _lower(_abs),
    ew.Neg: _lower(_neg),
    ew.Sign: _jump(_sign),
    ew.Relu: _lower(_relu),
    ew.BitwiseNot: _lower(_bitwise_not),
    ew.Silu: _lower(lambda _, dtype, x: x * fn.sigmoid(x, dtype)),
    ew.Gelu: _lower(_gelu),
    ew.HardSigmoid: _lower(_hard_sigmoid),
    ew.HardSwish: _lower(_hard_swish),
    ew.LeakyRelu: _lower(_leaky_relu),
    ew.Elu: _lower(_elu),
    ew.Softplus: _lower(_softplus),
    ew.Clamp: _lower(_clamp),
    ew.IsInf: _jump(_is_inf),
    ew.IsNan: _jump(lambda _, dtype, x: is_nan(x, dtype)),
    ew.LogicalNot: _jump(_logical_not),
    ew.Cast: _cast,
    ew.Add: _lower(_add),
    ew.Sub: _lower(lambda _, __, a, b: a - b),
    ew.Mul: _lower(_mul),
    ew.Div: _lower(lambda _, __, a, b: a / b),
    ew.FloorDiv: _jump(_floor_div),
    ew.TruncDiv: _jump(_trunc_div),
    ew.Fmod: _jump(_fmod),
    ew.Remainder: _jump(_remainder),
    ew.Pow: _lower(_pow),
    ew.Atan2: _lower(lambda _, __, a, b: fn.atan2(a, b)),
    ew.Maximum: _lower(lambda _, dtype, a, b: maximum(a, b, dtype)),
    ew.Minimum: _lower(lambda _, dtype, a, b: minimum(a, b, dtype)),
    ew.BitwiseAnd: _bitwise(tirx.bitwise_and, tirx.And),
    ew.BitwiseOr: _bitwise(tirx.bitwise_or, tirx.Or),
    ew.BitwiseXor: _bitwise(tirx.bitwise_xor, differ),
    ew.ShiftLeft: _lower(lambda _, dtype, a, b: integers.shift_left(dtype, a, b)),
    ew.ShiftRight: _lower(lambda _, dtype, a, b: integers.shift_right(dtype, a, b)),
    ew.Equal: _compare(lambda a, b: tirx.EQ(a, b)),
    ew.NotEqual: _jump(_not_equal),
    ew.Less: _compare(lambda a, b: tirx.LT(a, b)),
    ew.LessEqual: _compare(lambda a, b: tirx.LE(a, b)),
    ew.Greater: _compare(lambda a, b: tirx.GT(a, b)),
    ew.GreaterEqual: _compare(lambda a, b: tirx.GE(a, b)),
    ew.Where: _where,
}
