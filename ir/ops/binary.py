"""Ops of two or three inputs that compute each element from those at one place; all broadcast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optc.ir.dtype import DType
from optc.ir.ops.base import Op, OpError, Types, require, same_dtype
from optc.ir.types import TensorType, broadcast


def _broadcast(*inputs: TensorType) -> tuple[int, ...]:
    try:
        return broadcast(*(item.shape for item in inputs))
    except ValueError as problem:
        raise OpError(str(problem)) from None


@dataclass(frozen=True, slots=True)
class Binary(Op):
    """Two inputs of one dtype, broadcast together."""

    arity: ClassVar[tuple[int, int]] = (2, 2)

    def _infer(self, *inputs: TensorType) -> Types:
        return (TensorType(_broadcast(*inputs), same_dtype(*inputs)),)


@dataclass(frozen=True, slots=True)
class Compare(Op):
    """Two inputs of one dtype, broadcast together; bool out."""

    arity: ClassVar[tuple[int, int]] = (2, 2)

    def _infer(self, *inputs: TensorType) -> Types:
        same_dtype(*inputs)
        return (TensorType(_broadcast(*inputs), DType.BOOL),)


@dataclass(frozen=True, slots=True)
class Bitwise(Binary):
    """Two integers or bools."""

    def _infer(self, *inputs: TensorType) -> Types:
        require(
            not inputs[0].dtype.is_float, f"{self.name} takes integers or bools, not {inputs[0]}"
        )
        return (TensorType(_broadcast(*inputs), same_dtype(*inputs)),)


@dataclass(frozen=True, slots=True)
class Add(Binary):
    """a + b."""


@dataclass(frozen=True, slots=True)
class Sub(Binary):
    """a - b."""


@dataclass(frozen=True, slots=True)
class Mul(Binary):
    """a * b."""


@dataclass(frozen=True, slots=True)
class Div(Binary):
    """a / b of floats."""

    def _infer(self, *inputs: TensorType) -> Types:
        require(inputs[0].dtype.is_float, f"div takes floats, not {inputs[0]}; see floor_div")
        return (TensorType(_broadcast(*inputs), same_dtype(*inputs)),)


@dataclass(frozen=True, slots=True)
class FloorDiv(Binary):
    """floor(a / b)."""


@dataclass(frozen=True, slots=True)
class TruncDiv(Binary):
    """trunc(a / b)."""


@dataclass(frozen=True, slots=True)
class Fmod(Binary):
    """Remainder with the sign of a."""


@dataclass(frozen=True, slots=True)
class Remainder(Binary):
    """Remainder with the sign of b."""


@dataclass(frozen=True, slots=True)
class Pow(Binary):
    """a to the b."""


@dataclass(frozen=True, slots=True)
class Atan2(Binary):
    """Angle of the point (b, a)."""


@dataclass(frozen=True, slots=True)
class Maximum(Binary):
    """The larger; nan if either is."""


@dataclass(frozen=True, slots=True)
class Minimum(Binary):
    """The smaller; nan if either is."""


@dataclass(frozen=True, slots=True)
class BitwiseAnd(Bitwise):
    """Bits set in both."""


@dataclass(frozen=True, slots=True)
class BitwiseOr(Bitwise):
    """Bits set in either."""


@dataclass(frozen=True, slots=True)
class BitwiseXor(Bitwise):
    """Bits set in one of the two."""


@dataclass(frozen=True, slots=True)
class ShiftLeft(Bitwise):
    """a shifted left by b bits."""


@dataclass(frozen=True, slots=True)
class ShiftRight(Bitwise):
    """a shifted right by b bits, sign kept."""


@dataclass(frozen=True, slots=True)
class Equal(Compare):
    """a == b."""


@dataclass(frozen=True, slots=True)
class NotEqual(Compare):
    """a != b."""


@dataclass(frozen=True, slots=True)
class Less(Compare):
    """a < b."""


@dataclass(frozen=True, slots=True)
class LessEqual(Compare):
    """a <= b."""


@dataclass(frozen=True, slots=True)
class Greater(Compare):
    """a > b."""


@dataclass(frozen=True, slots=True)
class GreaterEqual(Compare):
    """a >= b."""


@dataclass(frozen=True, slots=True)
class Where(Op):
    """a where the condition holds, else b; all three broadcast."""

    arity: ClassVar[tuple[int, int]] = (3, 3)

    def _infer(self, *inputs: TensorType) -> Types:
        condition, first, second = inputs
        require(condition.dtype is DType.BOOL, f"where takes a bool condition, not {condition}")
        return (TensorType(_broadcast(*inputs), same_dtype(first, second)),)
