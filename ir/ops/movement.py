"""Ops that only move elements: no arithmetic except the sums of scatters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from optc.ir.dtype import DType
from optc.ir.ops.base import Op, Types, axis_of, require, same_dtype
from optc.ir.types import TensorType


class PadMode(Enum):
    """What stands outside the tensor."""

    CONSTANT = "constant"
    REFLECT = "reflect"
    REPLICATE = "replicate"
    CIRCULAR = "circular"


class Reduction(Enum):
    """How a scatter joins an update with what is there."""

    NONE = "none"
    ADD = "add"
    MUL = "mul"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, slots=True)
class Reshape(Op):
    """The same elements in row-major order under another shape."""

    shape: tuple[int, ...] = ()

    def _infer(self, *inputs: TensorType) -> Types:
        fits = math.prod(self.shape) == inputs[0].elements and min(self.shape, default=0) >= 0
        require(fits, f"cannot reshape {inputs[0]} to {self.shape}")
        return (inputs[0].with_shape(self.shape),)


@dataclass(frozen=True, slots=True)
class Transpose(Op):
    """Output axis i is input axis perm[i]."""

    perm: tuple[int, ...] = ()

    def _infer(self, *inputs: TensorType) -> Types:
        shape = inputs[0].shape
        fits = sorted(self.perm) == list(range(len(shape)))
        require(fits, f"{self.perm} does not permute the axes of {inputs[0]}")
        return (inputs[0].with_shape([shape[axis] for axis in self.perm]),)

    def moves(self, shape: Sequence[int]) -> bool:
        """Whether elements change places in memory, given the input's shape.

        Where only extents of 1 move, they do not. Axes are compared, not extents: those of a cube
        are equal however it is turned.
        """
        order = [axis for axis in self.perm if shape[axis] != 1]
        return order != sorted(order)


@dataclass(frozen=True, slots=True)
class Expand(Op):
    """Repeat axes of extent 1, and add leading axes, up to `shape` (numpy's broadcast)."""

    shape: tuple[int, ...] = ()

    def _infer(self, *inputs: TensorType) -> Types:
        old = (1,) * (len(self.shape) - inputs[0].rank) + inputs[0].shape
        fits = len(old) == len(self.shape)
        fits = fits and all(a in (1, b) for a, b in zip(old, self.shape, strict=True))
        require(fits, f"cannot expand {inputs[0]} to {self.shape}")
        return (inputs[0].with_shape(self.shape),)


@dataclass(frozen=True, slots=True)
class Slice(Op):
    """Elements start, start + step, ... below stop, per axis; steps are positive."""

    starts: tuple[int, ...] = ()
    stops: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()

    def _infer(self, *inputs: TensorType) -> Types:
        bounds = (self.starts, self.stops, self.steps)
        require(
            all(len(b) == inputs[0].rank for b in bounds), f"slice needs {inputs[0].rank} bounds"
        )
        rows = list(zip(inputs[0].shape, *bounds, strict=True))
        fits = all(0 <= start <= stop <= dim and step > 0 for dim, start, stop, step in rows)
        require(fits, f"slice {bounds} is outside {inputs[0]}")
        return (inputs[0].with_shape([-(-(b - a) // step) for _, a, b, step in rows]),)


@dataclass(frozen=True, slots=True)
class Flip(Op):
    """Reverse the order along some axes."""

    axes: tuple[int, ...] = ()

    def _infer(self, *inputs: TensorType) -> Types:
        for axis in self.axes:
            axis_of(axis, inputs[0].rank)
        return inputs


@dataclass(frozen=True, slots=True)
class Pad(Op):
    """Add `low` elements before and `high` after each axis."""

    low: tuple[int, ...] = ()
    high: tuple[int, ...] = ()
    mode: PadMode = PadMode.CONSTANT
    value: float | int | bool = 0

    def _infer(self, *inputs: TensorType) -> Types:
        shape = inputs[0].shape
        require(len(self.low) == len(self.high) == len(shape), f"pad needs {len(shape)} widths")
        require(min(self.low + self.high, default=0) >= 0, "pad widths are not negative; use slice")
        for dim, low, high in zip(shape, self.low, self.high, strict=True):
            limit = {PadMode.REFLECT: dim - 1, PadMode.CIRCULAR: dim}.get(self.mode)
            fits = limit is None or max(low, high) <= max(limit, 0)
            require(
                fits, f"{self.mode.value} padding {max(low, high)} is too wide for extent {dim}"
            )
        new = [low + dim + high for dim, low, high in zip(shape, self.low, self.high, strict=True)]
        return (inputs[0].with_shape(new),)


@dataclass(frozen=True, slots=True)
class Concat(Op):
    """Join tensors along an axis."""

    arity: ClassVar[tuple[int, int]] = (1, 1 << 16)
    axis: int = 0

    def _infer(self, *inputs: TensorType) -> Types:
        same_dtype(*inputs)
        first, axis = inputs[0], axis_of(self.axis, inputs[0].rank)
        rest = {(*item.shape[:axis], *item.shape[axis + 1 :]) for item in inputs}
        fits = len(rest) == 1 and len({item.rank for item in inputs}) == 1
        require(fits, f"cannot join {', '.join(map(str, inputs))} along axis {axis}")
        total = sum(item.shape[axis] for item in inputs)
        return (first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :])),)


def _integers(indices: TensorType) -> None:
    require(indices.dtype in (DType.I32, DType.I64), f"indices are i32 or i64, not {indices}")


@dataclass(frozen=True, slots=True)
class Take(Op):
    """Rows of `data` along `axis`, picked by integers of any shape (embedding, index_select).

    Indices are not negative.
    """

    arity: ClassVar[tuple[int, int]] = (2, 2)
    axis: int = 0

    def _infer(self, *inputs: TensorType) -> Types:
        data, indices = inputs
        _integers(indices)
        axis = axis_of(self.axis, data.rank)
        return (data.with_shape((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])),)


@dataclass(frozen=True, slots=True)
class GatherElements(Op):
    """out[i, j, k] = data[i, index[i, j, k], k] for axis 1; the index may be smaller elsewhere."""

    arity: ClassVar[tuple[int, int]] = (2, 2)
    axis: int = 0

    def _infer(self, *inputs: TensorType) -> Types:
        data, indices = inputs
        _integers(indices)
        axis_of(self.axis, data.rank)
        pairs = enumerate(zip(indices.shape, data.shape, strict=False))
        fits = indices.rank == data.rank
        fits = fits and all(a <= b for axis, (a, b) in pairs if axis != self.axis)
        require(fits, f"gather_elements indices {indices} do not fit {data}")
        return (data.with_shape(indices.shape),)


@dataclass(frozen=True, slots=True)
class ScatterElements(Op):
    """Inputs data, indices, updates: data[i, index[i, j, k], k] joined with updates[i, j, k].

    With Reduction.NONE the last of equal indices wins, in row-major order.
    """

    arity: ClassVar[tuple[int, int]] = (3, 3)
    axis: int = 0
    reduction: Reduction = Reduction.NONE

    def _infer(self, *inputs: TensorType) -> Types:
        data, indices, updates = inputs
        _integers(indices)
        same_dtype(data, updates)
        axis_of(self.axis, data.rank)
        fits = indices.rank == data.rank == updates.rank
        fits = fits and all(a <= b for a, b in zip(indices.shape, updates.shape, strict=True))
        require(fits, f"scatter_elements: {indices} and {updates} do not fit {data}")
        return (data,)


@dataclass(frozen=True, slots=True)
class GatherNd(Op):
    """out[i...] = data[indices[i..., 0], ..., indices[i..., k-1]], k: the last axis of indices.

    Indices are not negative.
    """

    arity: ClassVar[tuple[int, int]] = (2, 2)

    def _infer(self, *inputs: TensorType) -> Types:
        data, indices = inputs
        _integers(indices)
        require(
            indices.rank >= 1 and indices.shape[-1] <= data.rank, f"{indices} cannot index {data}"
        )
        return (data.with_shape(indices.shape[:-1] + data.shape[indices.shape[-1] :]),)


@dataclass(frozen=True, slots=True)
class ScatterNd(Op):
    """Inputs data, indices, updates: the inverse of GatherNd; updates join in row-major order."""

    arity: ClassVar[tuple[int, int]] = (3, 3)
    reduction: Reduction = Reduction.NONE

    def _infer(self, *inputs: TensorType) -> Types:
        data, indices, updates = inputs
        _integers(indices)
        same_dtype(data, updates)
        require(
            indices.rank >= 1 and indices.shape[-1] <= data.rank, f"{indices} cannot index {data}"
        )
        wanted = indices.shape[:-1] + data.shape[indices.shape[-1] :]
        require(updates.shape == wanted, f"scatter_nd updates are {wanted}, not {updates}")
        return (data,)
