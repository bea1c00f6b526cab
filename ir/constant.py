"""Constants: weights held by reference, with a digest that names their content.

A pass that does not change a weight hands on the same object; models of several GB stay mapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from optc.ir.diagnostics import error
from optc.ir.dtype import DType, from_numpy
from optc.ir.types import TensorType

Scalar = int | float | bool


@dataclass(frozen=True, slots=True)
class Splat:
    """Every element has one value."""

    value: Scalar


@dataclass(frozen=True, slots=True)
class Seed:
    """Standard normal numbers (floats) or 0/1 (others) from numpy's PCG64 with this seed."""

    seed: int


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """Content that lies in memory or in a mapped file; `load` returns the same array each time."""

    load: Callable[[], np.ndarray]


@dataclass(frozen=True, slots=True)
class Absent:
    """Content known by digest only: text was parsed without its weights file."""

    digest: str


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor known at compile time. The array is in `type.dtype.storage` and never written to."""

    type: TensorType
    source: Splat | Seed | Stored | Absent

    @cached_property
    def array(self) -> np.ndarray:
        """The content, shape `type.shape`; raises E0110 when only the digest is known."""
        match self.source:
            case Splat(value):
                return np.broadcast_to(_scalar(value, self.type.dtype), self.type.shape)
            case Seed(seed):
                return _random(seed, self.type)
            case Stored(load):
                return load()
            case Absent(digest):
                raise error(
                    "E0110",
                    f"the weights of constant {digest[:12]} are not here",
                    help="keep the .weights file beside the .optc file it was written with",
                )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of type and content, in hex: equal digests mean equal constants."""
        if isinstance(self.source, Absent):
            return self.source.digest
        content = hashlib.sha256(str(self.type).encode())
        content.update(
            np.ascontiguousarray(self.array).data.cast("B") if self.type.elements else b""
        )
        return content.hexdigest()

    @cached_property
    def splat(self) -> Scalar | None:
        """The one value of a splat or of a single-element constant, else None."""
        if isinstance(self.source, Splat):
            return self.source.value
        if self.type.elements != 1 or isinstance(self.source, Absent):
            return None
        item: Scalar = to_floats(self).reshape(()).item()
        return item


def constant(array: np.ndarray, dtype: DType | None = None) -> Constant:
    """Wrap an array without copying; `dtype` is needed for bf16 (uint16) and i4 (int8) storage."""
    kind = dtype or from_numpy(array.dtype)
    return Constant(TensorType(tuple(array.shape), kind), Stored(lambda: array))


def splat(value: Scalar, type: TensorType) -> Constant:
    """A constant whose elements are all `value`; takes no memory."""
    return Constant(type, Splat(value))


def to_floats(item: Constant) -> np.ndarray:
    """The content as numpy numbers to compute with: bf16 widened to float32, others as stored."""
    if item.type.dtype is DType.BF16:
        return (item.array.astype(np.uint32) << 16).view(np.float32)
    return item.array


def from_floats(array: np.ndarray, dtype: DType) -> Constant:
    """The inverse of `to_floats`: convert to `dtype`, rounding to nearest even for bf16."""
    if dtype is not DType.BF16:
        return constant(np.asarray(array, order="C").astype(dtype.storage), dtype)
    return constant(_round_to_bf16(np.asarray(array, dtype=np.float32, order="C")), dtype)


def _round_to_bf16(array: np.ndarray) -> np.ndarray:
    bits = array.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)


def _scalar(value: Scalar, dtype: DType) -> np.ndarray:
    if dtype is DType.BF16:
        return _round_to_bf16(np.asarray(value, dtype=np.float32))
    return np.asarray(value).astype(dtype.storage)


def _random(seed: int, type: TensorType) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(seed))
    if type.dtype.is_float:
        return from_floats(
            generator.standard_normal(type.shape, dtype=np.float32), type.dtype
        ).array
    return generator.integers(0, 2, type.shape).astype(type.dtype.storage)
