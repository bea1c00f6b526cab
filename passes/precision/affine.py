"""Parameters of quantization: real = (integer - zero) * scale, chosen so that 0.0 is exact.

Zero must be a number of the grid, since convolutions pad with it (Jacob et al. 2018, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.constant import Constant, constant, splat
from optc.ir.dtype import DType
from optc.ir.ops.quantization import limits
from optc.ir.types import TensorType

TINY = 2.0**-100  # of a scale: its reciprocal, and products of two, are normal numbers of f32


@dataclass(frozen=True, slots=True)
class Affine:
    """One scale and one zero for a whole tensor."""

    scale: float  # an f32
    zero: int
    dtype: DType

    def constants(self) -> tuple[Constant, Constant]:
        """Scale and zero as the ops take them."""
        zero = splat(self.zero, TensorType((), self.dtype))
        return splat(self.scale, TensorType((), DType.F32)), zero

    def of(self, number: float) -> int:
        """What `quantize` makes of a number."""
        least, most = limits(self.dtype)
        inverse = np.float32(1) / np.float32(self.scale)
        with np.errstate(over="ignore"):
            rounded = np.rint(np.float32(number) * inverse)
        return int(np.clip(rounded + np.float32(self.zero), least, most))


def affine(
    low: float, high: float, dtype: DType, *, symmetric: bool = False, shift: bool = False
) -> Affine:
    """Parameters whose integers reach from `low` to `high`, both widened to hold 0.0.

    With `symmetric` zero is 0; the least integer of a signed dtype is left out then. With `shift`
    the scale is the next larger power of two.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    least, most = limits(dtype)
    if symmetric:
        reach = max(high, -low if least < 0 else 0.0)
        return Affine(float(step(reach / most, shift=shift)), 0, dtype)
    scale = float(step((high - low) / (most - least), shift=shift))
    return Affine(scale, int(np.clip(np.rint(least - low / scale), least, most)), dtype)


def step(size: Any, *, shift: bool = False) -> NDArray[np.float32]:
    """Sizes as scales, in f32: not zero, and the next power of two where one is asked for."""
    size = np.maximum(size, TINY)
    if shift:
        size = np.exp2(np.ceil(np.log2(size)))
    found: NDArray[np.float32] = np.asarray(size, np.float32)
    return found


def quantized(
    array: NDArray[np.floating[Any]], scale: NDArray[np.float32], dtype: DType
) -> Constant:
    """A weight in symmetric steps; `scale` has its rank and extents that divide its extents."""
    most = limits(dtype)[1]
    ratio = array / spread(scale.astype(np.float64), array.shape)
    whole = np.rint(np.clip(ratio, -most, most))
    return constant(whole.astype(dtype.storage), dtype)


def largest(array: NDArray[np.floating[Any]], shape: tuple[int, ...]) -> NDArray[np.floating[Any]]:
    """The largest magnitude of each block, for parameters of `shape`."""
    split, axes = [], []
    for axis, (extent, entries) in enumerate(zip(array.shape, shape, strict=True)):
        split += [entries, extent // entries]
        axes.append(2 * axis + 1)
    found: NDArray[np.floating[Any]] = (
        np.abs(array).reshape(split).max(axis=tuple(axes), initial=0.0)
    )
    return found


def spread(
    parameter: NDArray[np.floating[Any]], shape: tuple[int, ...]
) -> NDArray[np.floating[Any]]:
    """A parameter in full size: every entry repeated for the elements of its block."""
    for axis, entries in enumerate(parameter.shape):
        if entries not in (1, shape[axis]):
            parameter = np.repeat(parameter, shape[axis] // entries, axis)
    return parameter
