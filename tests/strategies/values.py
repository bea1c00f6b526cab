"""Numbers to run ops on: what an input may hold, and arrays filled accordingly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.ir.dtype import DType
from optc.ir.types import TensorType

_SPECIAL = (0.0, -0.0, float("nan"), float("inf"), float("-inf"), 1.0, -1.0)


@dataclass(frozen=True)
class Normal:
    """Standard normal numbers times a scale; for integers rounded, for bools their sign.

    With `special`, some floats are zeros, infinities and nan.
    """

    scale: float = 3.0
    special: bool = False


@dataclass(frozen=True)
class Uniform:
    """Between two numbers."""

    low: float
    high: float


@dataclass(frozen=True)
class Whole:
    """Integers in [low, high], perhaps never zero, in any dtype."""

    low: int
    high: int
    nonzero: bool = False


@dataclass(frozen=True)
class Ascending:
    """Integers in [0, limit], the first 0, none below the one before."""

    limit: int


@dataclass(frozen=True)
class Rows:
    """Index tuples into the leading axes of a shape, along the last axis."""

    shape: tuple[int, ...]


Values = Normal | Uniform | Whole | Ascending | Rows


def fill(type: TensorType, values: Values, generator: torch.Generator) -> Tensor:
    """A tensor of that type whose content depends only on `values` and the generator."""
    shape, dtype = type.shape, TORCH_DTYPE[type.dtype]
    match values:
        case Uniform(low, high):
            numbers = torch.rand(shape, generator=generator, dtype=torch.float64)
            return (low + (high - low) * numbers).to(dtype)
        case Whole(low, high, nonzero):
            whole = torch.randint(low, high + 1, shape, generator=generator)
            return (torch.where(whole == 0, max(high, 1), whole) if nonzero else whole).to(dtype)
        case Ascending(limit):
            whole = torch.randint(0, limit + 1, shape, generator=generator).sort().values
            return torch.cat([torch.zeros_like(whole[:1]), whole[1:]]).to(dtype)
        case Rows(dims):
            columns = [torch.randint(0, d, shape[:-1], generator=generator) for d in dims]
            return (
                torch.stack(columns, -1).to(dtype) if columns else torch.zeros(shape, dtype=dtype)
            )
    return _normal(type, values, generator)


def _normal(type: TensorType, values: Normal, generator: torch.Generator) -> Tensor:
    numbers = torch.randn(type.shape, generator=generator, dtype=torch.float64) * values.scale
    if type.dtype is DType.BOOL:
        return numbers > 0
    if type.dtype is DType.U8:
        numbers = numbers.abs()
    if not type.dtype.is_float:
        return numbers.clamp(-8, 7).round().to(TORCH_DTYPE[type.dtype])
    if values.special:
        chosen = torch.randint(0, 4 * len(_SPECIAL), type.shape, generator=generator)
        table = torch.tensor(_SPECIAL, dtype=torch.float64)
        numbers = torch.where(chosen < len(_SPECIAL), table[chosen % len(_SPECIAL)], numbers)
    return numbers.to(TORCH_DTYPE[type.dtype])


def closeness(dtype: DType, length: int = 1) -> dict[str, float]:
    """Tolerances for `torch.testing.assert_close` after sums of about `length` terms."""
    if not dtype.is_float:
        return {"rtol": 0.0, "atol": 0.0}
    unit = {DType.F64: 1e-12, DType.F32: 2e-6, DType.F16: 2e-3, DType.BF16: 1.6e-2}[dtype]
    growth = math.sqrt(length)
    return {"rtol": unit * 8 * growth if unit < 1e-3 else unit, "atol": unit * growth}
