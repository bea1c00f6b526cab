"""Elements of tensors as expressions: read wide, written rounded; constants, bounds, indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from optc.backends.tvm.dtypes import tvm_dtype
from optc.ir.constant import Constant, to_floats
from optc.ir.constant import splat as constant_splat
from optc.ir.dtype import DType, Kind
from optc.ir.types import TensorType

Index = Sequence[Expr | int]
Read = Callable[..., Expr]
Lowering = Callable[[Any, Sequence[te.Tensor], Sequence[TensorType]], Sequence[te.Tensor]]

ROUNDING = "optc.rounding"
_SPLAT = "splat"


def wide(dtype: DType) -> DType:
    """The dtype that elements of `dtype` are computed in: f32 for f16 and bf16."""
    return DType.F32 if dtype in (DType.F16, DType.BF16) else dtype


def const(value: float | int | bool, dtype: DType) -> Expr:
    """A number of that type; infinities and nan are allowed for floats."""
    return tirx.const(value, tvm_dtype(dtype))


def cast(value: Expr, dtype: DType) -> Expr:
    """TVM's conversion, for values that both types can represent."""
    if str(value.ty) == "bfloat16":
        return tirx.Cast(tvm_dtype(dtype), _widened(value))
    return tirx.Cast(tvm_dtype(dtype), value)


def _widened(value: Expr) -> Expr:
    """A bf16 as f32, bit by bit: where a cast's result has a name, TVM converts the raw bits."""
    bits = tirx.Cast("uint32", tirx.reinterpret("uint16", value))
    return tirx.reinterpret("float32", tirx.shift_left(bits, tirx.const(16, "uint32")))


def i32(value: Expr | int) -> Expr:
    """An index expression: no tensor of a kernel has 2^31 elements."""
    return tirx.const(value, "int32") if isinstance(value, int) else tirx.Cast("int32", value)


def exact(tensor: te.Tensor) -> Read:
    """Reads elements as they are stored."""
    return lambda *index: tensor(*index)


def reader(tensor: te.Tensor, type: TensorType) -> Read:
    """Reads elements in the wide dtype, before rounding if they were computed in this kernel."""
    if wide(type.dtype) is type.dtype:
        return exact(tensor)
    if isinstance(tensor.op, te.ComputeOp) and tensor.op.tag == ROUNDING:
        return exact(tensor.op.input_tensors[0])
    return stored(tensor, type)


def stored(tensor: te.Tensor, type: TensorType) -> Read:
    """Reads elements in the wide dtype, rounded as they are in memory.

    For ops that jump where their input changes a little (floor, less, argmax, sort).
    """
    read = exact(tensor)
    if wide(type.dtype) is type.dtype:
        return read
    if tensor.op.name == _SPLAT:  # its wide number is rounded already
        return exact(tensor.op.input_tensors[0])
    return lambda *index: cast(read(*index), DType.F32)


def splat(item: Constant) -> te.Tensor:
    """A tensor of one number; raises ValueError for a constant that has many.

    TVM loses the type of bf16 literals, so the number is a literal of the wide dtype.
    """
    dtype, kind = item.type.dtype, wide(item.type.dtype)
    if item.splat is None:
        raise ValueError(f"a task's body holds a {item.type} constant that is not a splat")
    number = const(to_floats(constant_splat(item.splat, TensorType((), dtype))).item(), kind)
    value = te.compute(item.type.shape, lambda *_: number, name="number")
    if kind is dtype:
        return value
    return te.compute(item.type.shape, lambda *i: cast(value(*i), dtype), name=_SPLAT, tag=ROUNDING)


def compute(name: str, type: TensorType, element: Callable[..., Expr]) -> te.Tensor:
    """A tensor of `type` whose elements `element(*index)` gives in the wide dtype."""
    result = te.compute(type.shape, lambda *index: element(*index), name=name)
    return rounded(result, type)


def rounded(tensor: te.Tensor, type: TensorType) -> te.Tensor:
    """A wide tensor brought to its type's dtype: halves are rounded, i4 keeps four bits."""
    name, read = f"{tensor.op.name}_rounded", exact(tensor)
    if type.dtype is DType.I4:
        return te.compute(type.shape, lambda *index: sign_of_nibble(read(*index)), name=name)
    if wide(type.dtype) is type.dtype:
        return tensor
    return te.compute(
        type.shape, lambda *index: cast(read(*index), type.dtype), name=name, tag=ROUNDING
    )


def narrow(value: Expr, dtype: DType) -> Expr:
    """A wide element rounded to its stored dtype."""
    return value if wide(dtype) is dtype else cast(value, dtype)


def move(name: str, shape: Sequence[int], element: Callable[..., Expr]) -> te.Tensor:
    """A tensor whose elements are other tensors' elements: nothing to round."""
    return te.compute(tuple(shape), lambda *index: element(*index), name=name)


def sign_of_nibble(value: Expr) -> Expr:
    """The low four bits of an int8 as a signed number."""
    four = tirx.const(4, "int8")
    return tirx.shift_right(tirx.shift_left(value, four), four)


def choose(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Both sides are computed: becomes a blend in vector code."""
    return tirx.Select(condition, yes, no)


def guard(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """`yes` is computed only where the condition holds: for reads that could be out of bounds."""
    return tirx.if_then_else(condition, yes, no)


def both(*conditions: Expr) -> Expr:
    """True where all are; no conditions are true."""
    return tirx.all(*conditions) if conditions else tirx.const(True, "bool")


def differ(a: Expr, b: Expr) -> Expr:
    """Exclusive or of bools; TVM compares bools as floats, which LLVM refuses."""
    return tirx.Or(tirx.And(a, tirx.Not(b)), tirx.And(tirx.Not(a), b))


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body` of a name for `value`, so that the expression does not grow by copies."""
    name = tirx.Var("v", value.ty)
    return tirx.Let(name, value, body(name))


def is_nan(value: Expr, dtype: DType) -> Expr:
    """True for nan; integers never are."""
    return tirx.isnan(value) if dtype.is_float else tirx.const(False, "bool")


def not_equal(a: Expr, b: Expr, dtype: DType) -> Expr:
    """a != b, true for nan; TVM's own is false there, and rewrites "not equal" to it."""
    return tirx.any(tirx.NE(a, b), is_nan(a, dtype), is_nan(b, dtype))


def lowest(dtype: DType) -> Expr:
    """The identity of max: minus infinity, or the smallest integer."""
    if dtype.is_float:
        return const(float("-inf"), dtype)
    return const(-(1 << (dtype.bits - 1)) if dtype.kind is Kind.SIGNED else 0, dtype)


def highest(dtype: DType) -> Expr:
    """The identity of min: infinity, or the largest integer."""
    if dtype.is_float:
        return const(float("inf"), dtype)
    bits = dtype.bits - 1 if dtype.kind is Kind.SIGNED else dtype.bits
    return const((1 << bits) - 1, dtype)


def maximum(a: Expr, b: Expr, dtype: DType) -> Expr:
    """The larger; nan if either is."""
    if dtype is DType.BOOL:
        return tirx.Or(a, b)
    return choose(tirx.any(a > b, is_nan(a, dtype)), a, b)


def minimum(a: Expr, b: Expr, dtype: DType) -> Expr:
    """The smaller; nan if either is."""
    if dtype is DType.BOOL:
        return tirx.And(a, b)
    return choose(tirx.any(a < b, is_nan(a, dtype)), a, b)


def clamp_index(index: Expr, extent: int) -> Expr:
    """An index as int32 inside [0, extent), which no input of a stranger can leave."""
    return i32(tirx.max(tirx.min(index, _like(extent - 1, index)), _like(0, index)))


def _like(value: int, other: Expr) -> Expr:
    return tirx.const(value, str(other.ty))


def quotient(index: Expr, divisor: int, extent: int) -> Expr:
    """index // divisor for 0 <= index < extent; zero says so, as joined loops lose the bound."""
    if extent <= divisor:
        return i32(0)
    return index if divisor == 1 else tirx.indexdiv(index, i32(divisor))


def unravel(flat: Expr, shape: Sequence[int]) -> list[Expr]:
    """The index tuple of a row-major place."""
    index: list[Expr] = []
    for axis in reversed(range(len(shape))):
        first = axis == 0
        index.append(flat if first else tirx.indexmod(flat, i32(shape[axis])))
        flat = flat if first else tirx.indexdiv(flat, i32(shape[axis]))
    return list(reversed(index))


def ravel(index: Index, shape: Sequence[int]) -> Expr:
    """The row-major place of an index tuple."""
    flat: Expr = i32(0)
    for place, extent in zip(index, shape, strict=True):
        flat = flat * i32(extent) + place
    return flat


def pinned(index: Index, shape: Sequence[int]) -> list[Expr | int]:
    """The index into a tensor of `shape` that is broadcast to where `index` points."""
    tail = list(index)[len(index) - len(shape) :]
    return [i32(0) if extent == 1 else place for place, extent in zip(tail, shape, strict=True)]
