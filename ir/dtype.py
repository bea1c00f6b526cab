"""Element types: the closed set that every table of the compiler is keyed by."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cached_property

import numpy as np


class Kind(Enum):
    """What a dtype's bits mean."""

    FLOAT = "float"
    SIGNED = "signed"
    UNSIGNED = "unsigned"
    BOOL = "bool"


class DType(Enum):
    """Element type of a tensor; the enum's value is its spelling in text form."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    I4 = "i4"
    BOOL = "bool"

    @cached_property
    def kind(self) -> Kind:
        """Float, signed, unsigned or bool."""
        if self is DType.BOOL:
            return Kind.BOOL
        if self is DType.U8:
            return Kind.UNSIGNED
        return Kind.SIGNED if self.value.startswith("i") else Kind.FLOAT

    @property
    def is_float(self) -> bool:
        """True for f64, f32, f16 and bf16."""
        return self.kind is Kind.FLOAT

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers; bool is neither."""
        return self.kind in (Kind.SIGNED, Kind.UNSIGNED)

    @cached_property
    def bits(self) -> int:
        """Width of one element in bits; a bool takes a byte."""
        return 8 if self is DType.BOOL else int("".join(c for c in self.value if c.isdigit()))

    @cached_property
    def storage(self) -> np.dtype:
        """The numpy dtype that holds it: bf16 as raw uint16, i4 as int8 (one element a byte)."""
        return _STORAGE[self]

    def nbytes(self, elements: int) -> int:
        """Bytes of `elements` packed elements, rounded up."""
        return (elements * self.bits + 7) // 8

    def __str__(self) -> str:
        return self.value


_STORAGE: Mapping[DType, np.dtype] = {
    DType.F64: np.dtype("float64"),
    DType.F32: np.dtype("float32"),
    DType.F16: np.dtype("float16"),
    DType.BF16: np.dtype("uint16"),
    DType.I64: np.dtype("int64"),
    DType.I32: np.dtype("int32"),
    DType.I16: np.dtype("int16"),
    DType.I8: np.dtype("int8"),
    DType.U8: np.dtype("uint8"),
    DType.I4: np.dtype("int8"),
    DType.BOOL: np.dtype("bool"),
}
_FROM_NUMPY = {storage: dtype for dtype, storage in _STORAGE.items() if dtype is not DType.I4}
_FROM_NUMPY.pop(np.dtype("uint16"))


def from_numpy(dtype: np.dtype) -> DType:
    """The dtype that numpy's `dtype` spells; raises KeyError when there is none."""
    return _FROM_NUMPY[np.dtype(dtype)]
