"""Ops that fold axes together, running folds, and orderings along an axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optc.ir.dtype import DType
from optc.ir.ops.base import Op, Types, axis_of, require
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Reduce(Op):
    """Fold `axes` (sorted, counted from the front); `keepdims` leaves them with extent 1."""

    axes: tuple[int, ...] = ()
    keepdims: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        return (inputs[0].with_shape(self._shape(inputs[0])),)

    def _shape(self, item: TensorType) -> list[int]:
        for axis in self.axes:
            axis_of(axis, item.rank)
        require(list(self.axes) == sorted(set(self.axes)), f"axes {self.axes} are not sorted")
        kept = [1 if axis in self.axes else dim for axis, dim in enumerate(item.shape)]
        if self.keepdims:
            return kept
        return [dim for axis, dim in enumerate(item.shape) if axis not in self.axes]


@dataclass(frozen=True, slots=True)
class ReduceSum(Reduce):
    """Sum; f16 and bf16 accumulate in f32."""


@dataclass(frozen=True, slots=True)
class ReduceMean(Reduce):
    """Mean of floats."""


@dataclass(frozen=True, slots=True)
class ReduceProd(Reduce):
    """Product."""


@dataclass(frozen=True, slots=True)
class ReduceMax(Reduce):
    """Largest element; nan if one is."""


@dataclass(frozen=True, slots=True)
class ReduceMin(Reduce):
    """Smallest element; nan if one is."""


@dataclass(frozen=True, slots=True)
class ReduceAny(Reduce):
    """True where any bool is."""


@dataclass(frozen=True, slots=True)
class ReduceAll(Reduce):
    """True where all bools are."""


@dataclass(frozen=True, slots=True)
class AxisOp(Op):
    """An op along one axis that keeps the type."""

    axis: int = 0

    def _infer(self, *inputs: TensorType) -> Types:
        axis_of(self.axis, inputs[0].rank)
        return inputs


@dataclass(frozen=True, slots=True)
class CumSum(AxisOp):
    """Running sum."""


@dataclass(frozen=True, slots=True)
class CumProd(AxisOp):
    """Running product."""


@dataclass(frozen=True, slots=True)
class ArgReduce(Op):
    """Place of an extreme element along an axis, i64; the first of equals, a nan before all."""

    axis: int = 0
    keepdims: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        axis = axis_of(self.axis, inputs[0].rank)
        shape = inputs[0].shape
        middle = (1,) if self.keepdims else ()
        return (TensorType((*shape[:axis], *middle, *shape[axis + 1 :]), DType.I64),)


@dataclass(frozen=True, slots=True)
class ArgMax(ArgReduce):
    """Place of the largest element."""


@dataclass(frozen=True, slots=True)
class ArgMin(ArgReduce):
    """Place of the smallest element."""


@dataclass(frozen=True, slots=True)
class Sort(Op):
    """Sorted values and their places (i64) along an axis; always stable, nan counts as largest."""

    axis: int = 0
    descending: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        axis_of(self.axis, inputs[0].rank)
        return (inputs[0], inputs[0].with_dtype(DType.I64))


@dataclass(frozen=True, slots=True)
class TopK(Op):
    """The k largest (or smallest) along an axis, in order, and their places (i64)."""

    arity: ClassVar[tuple[int, int]] = (1, 1)
    k: int = 1
    axis: int = 0
    largest: bool = True

    def _infer(self, *inputs: TensorType) -> Types:
        axis = axis_of(self.axis, inputs[0].rank)
        shape = inputs[0].shape
        require(0 <= self.k <= shape[axis], f"top_k of {self.k} in an axis of {shape[axis]}")
        values = inputs[0].with_shape((*shape[:axis], self.k, *shape[axis + 1 :]))
        return (values, values.with_dtype(DType.I64))
