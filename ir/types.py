"""Tensor types: a shape of integers and a dtype, printed as `1x64x56x56xf32`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optc.ir.dtype import DType


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and element type of a value. Every dimension is known when a graph is built."""

    shape: tuple[int, ...]
    dtype: DType

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense row-major tensor."""
        return self.dtype.nbytes(self.elements)

    def with_shape(self, shape: Sequence[int]) -> TensorType:
        """The same element type in another shape."""
        return TensorType(tuple(shape), self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape with another element type."""
        return TensorType(self.shape, dtype)

    def __str__(self) -> str:
        return "x".join([*map(str, self.shape), self.dtype.value])


def parse_type(text: str) -> TensorType:
    """Read `1x64xf32`; raises ValueError that quotes the text."""
    *dims, dtype = text.split("x")
    try:
        return TensorType(tuple(int(dim) for dim in dims), DType(dtype))
    except ValueError:
        raise ValueError(f"not a tensor type: {text!r}") from None


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Numpy's broadcast of shapes; raises ValueError that quotes them."""
    rank = max(map(len, shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for axis, dim in enumerate(shape, rank - len(shape)):
            if dim != 1 and result[axis] not in (1, dim):
                raise ValueError(f"shapes {', '.join(map(str, shapes))} do not broadcast")
            result[axis] = dim if dim != 1 else result[axis]
    return tuple(result)
