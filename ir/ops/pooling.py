"""Windows that slide over spatial axes and keep the largest or the mean."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.dtype import DType
from optc.ir.ops.base import Op, Types, require
from optc.ir.ops.contraction import Pairs, spatial_axes, with_spatial
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Pool(Op):
    """Base of the pools. `padding` is (low, high) per spatial axis.

    The high padding is what makes a ceil-mode window fit: capture computes it, so there is one
    formula for the extent: (in + low + high - dilation * (kernel - 1) - 1) // stride + 1.
    """

    kernel: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)
    padding: Pairs = ((0, 0), (0, 0))
    dilation: tuple[int, ...] = (1, 1)
    channels_last: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        x = inputs[0]
        require(x.rank == len(self.kernel) + 2, f"{self.name} {self.kernel} does not fit {x}")
        extents = [
            (x.shape[axis] + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1
            for axis, pad, dilation, kernel, stride in zip(
                spatial_axes(x.rank, self.channels_last),
                self.padding,
                self.dilation,
                self.kernel,
                self.stride,
                strict=True,
            )
        ]
        require(min(extents) >= 0, f"{self.name} window {self.kernel} is larger than padded {x}")
        channels = x.shape[-1] if self.channels_last else x.shape[1]
        return (with_spatial(x, channels, extents, self.channels_last),)


@dataclass(frozen=True, slots=True)
class MaxPool(Pool):
    """Largest element of each window; what is outside counts as the lowest number."""


@dataclass(frozen=True, slots=True)
class MaxPoolIndices(Pool):
    """Largest element, and its place in the flat spatial extent of the unpadded input (i64)."""

    def _infer(self, *inputs: TensorType) -> Types:
        (values,) = Pool._infer(self, *inputs)
        return (values, values.with_dtype(DType.I64))


@dataclass(frozen=True, slots=True)
class AvgPool(Pool):
    """Sum of each window over `divisor`, or over the window's size.

    Without a divisor: over all elements inside input plus `counted` padding ((low, high) per axis,
    torch's count_include_pad), or over the input's elements alone when `counted` is zeros.
    """

    counted: Pairs = ((0, 0), (0, 0))
    divisor: int | None = None


@dataclass(frozen=True, slots=True)
class AdaptiveAvgPool(Op):
    """Mean over windows [floor(i * in / out), ceil((i + 1) * in / out)) per spatial axis."""

    size: tuple[int, ...] = (1, 1)
    channels_last: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        x = inputs[0]
        require(x.rank == len(self.size) + 2, f"adaptive_avg_pool to {self.size} does not fit {x}")
        channels = x.shape[-1] if self.channels_last else x.shape[1]
        return (with_spatial(x, channels, list(self.size), self.channels_last),)
