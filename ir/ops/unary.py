"""Ops of one input that compute each element from the one at the same place."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.dtype import DType
from optc.ir.ops.base import Op, Types, require
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Unary(Op):
    """One input, same type out."""

    def _infer(self, *inputs: TensorType) -> Types:
        return inputs


@dataclass(frozen=True, slots=True)
class FloatUnary(Unary):
    """One floating-point input, same type out."""

    def _infer(self, *inputs: TensorType) -> Types:
        require(inputs[0].dtype.is_float, f"{self.name} takes a float, not {inputs[0]}")
        return inputs


@dataclass(frozen=True, slots=True)
class Predicate(Op):
    """One input, bool out."""

    def _infer(self, *inputs: TensorType) -> Types:
        return (inputs[0].with_dtype(DType.BOOL),)


@dataclass(frozen=True, slots=True)
class Abs(Unary):
    """Absolute value."""


@dataclass(frozen=True, slots=True)
class Neg(Unary):
    """Negation; integers wrap."""


@dataclass(frozen=True, slots=True)
class Sign(Unary):
    """-1, 0 or 1; nan gives 0 as torch does."""


@dataclass(frozen=True, slots=True)
class Relu(Unary):
    """max(x, 0)."""


@dataclass(frozen=True, slots=True)
class BitwiseNot(Unary):
    """Flip all bits; of a bool, its opposite."""

    def _infer(self, *inputs: TensorType) -> Types:
        require(
            not inputs[0].dtype.is_float, f"bitwise_not takes integers or bools, not {inputs[0]}"
        )
        return inputs


@dataclass(frozen=True, slots=True)
class Acos(FloatUnary):
    """Inverse cosine."""


@dataclass(frozen=True, slots=True)
class Acosh(FloatUnary):
    """Inverse hyperbolic cosine."""


@dataclass(frozen=True, slots=True)
class Asin(FloatUnary):
    """Inverse sine."""


@dataclass(frozen=True, slots=True)
class Asinh(FloatUnary):
    """Inverse hyperbolic sine."""


@dataclass(frozen=True, slots=True)
class Atan(FloatUnary):
    """Inverse tangent."""


@dataclass(frozen=True, slots=True)
class Atanh(FloatUnary):
    """Inverse hyperbolic tangent."""


@dataclass(frozen=True, slots=True)
class Ceil(FloatUnary):
    """Smallest integer not below."""


@dataclass(frozen=True, slots=True)
class Cos(FloatUnary):
    """Cosine of radians."""


@dataclass(frozen=True, slots=True)
class Cosh(FloatUnary):
    """Hyperbolic cosine."""


@dataclass(frozen=True, slots=True)
class Erf(FloatUnary):
    """Error function."""


@dataclass(frozen=True, slots=True)
class Exp(FloatUnary):
    """e to the x."""


@dataclass(frozen=True, slots=True)
class Expm1(FloatUnary):
    """exp(x) - 1, exact near 0."""


@dataclass(frozen=True, slots=True)
class Floor(FloatUnary):
    """Largest integer not above."""


@dataclass(frozen=True, slots=True)
class Log(FloatUnary):
    """Natural logarithm."""


@dataclass(frozen=True, slots=True)
class Log10(FloatUnary):
    """Decimal logarithm."""


@dataclass(frozen=True, slots=True)
class Log1p(FloatUnary):
    """log(1 + x), exact near 0."""


@dataclass(frozen=True, slots=True)
class Log2(FloatUnary):
    """Binary logarithm."""


@dataclass(frozen=True, slots=True)
class Reciprocal(FloatUnary):
    """1 / x."""


@dataclass(frozen=True, slots=True)
class Round(FloatUnary):
    """Nearest integer, halves to even."""


@dataclass(frozen=True, slots=True)
class Rsqrt(FloatUnary):
    """1 / sqrt(x)."""


@dataclass(frozen=True, slots=True)
class Sigmoid(FloatUnary):
    """1 / (1 + exp(-x))."""


@dataclass(frozen=True, slots=True)
class Silu(FloatUnary):
    """x * sigmoid(x)."""


@dataclass(frozen=True, slots=True)
class Sin(FloatUnary):
    """Sine of radians."""


@dataclass(frozen=True, slots=True)
class Sinh(FloatUnary):
    """Hyperbolic sine."""


@dataclass(frozen=True, slots=True)
class Sqrt(FloatUnary):
    """Square root."""


@dataclass(frozen=True, slots=True)
class Tan(FloatUnary):
    """Tangent of radians."""


@dataclass(frozen=True, slots=True)
class Tanh(FloatUnary):
    """Hyperbolic tangent."""


@dataclass(frozen=True, slots=True)
class Trunc(FloatUnary):
    """Integer part."""


@dataclass(frozen=True, slots=True)
class Gelu(FloatUnary):
    """x * Phi(x) (Hendrycks and Gimpel 2016); `tanh` selects the tanh approximation."""

    tanh: bool = False


@dataclass(frozen=True, slots=True)
class HardSigmoid(FloatUnary):
    """clamp(x + 3, 0, 6) / 6."""


@dataclass(frozen=True, slots=True)
class HardSwish(FloatUnary):
    """x * clamp(x + 3, 0, 6) / 6 (Howard et al. 2019, section 5.2)."""


@dataclass(frozen=True, slots=True)
class LeakyRelu(FloatUnary):
    """x where positive, else slope * x."""

    slope: float = 0.01


@dataclass(frozen=True, slots=True)
class Elu(FloatUnary):
    """scale * x if positive, else scale * alpha * (exp(input_scale * x) - 1); also SELU, CELU."""

    alpha: float = 1.0
    scale: float = 1.0
    input_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Softplus(FloatUnary):
    """log(1 + exp(beta * x)) / beta; x itself where beta * x > threshold."""

    beta: float = 1.0
    threshold: float = 20.0


@dataclass(frozen=True, slots=True)
class Clamp(Unary):
    """Limit to [low, high]; None leaves that side open. nan stays nan."""

    low: float | int | None = None
    high: float | int | None = None


@dataclass(frozen=True, slots=True)
class IsInf(Predicate):
    """True at plus or minus infinity."""


@dataclass(frozen=True, slots=True)
class IsNan(Predicate):
    """True where not a number."""


@dataclass(frozen=True, slots=True)
class LogicalNot(Predicate):
    """True where the input is zero."""


@dataclass(frozen=True, slots=True)
class Cast(Op):
    """Convert to another dtype: floats to integers truncate, anything to bool is `!= 0`."""

    dtype: DType = DType.F32

    def _infer(self, *inputs: TensorType) -> Types:
        return (inputs[0].with_dtype(self.dtype),)
