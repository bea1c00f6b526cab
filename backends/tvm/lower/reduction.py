"""Folds of axes, as reductions that schedules can split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.element import (
    Lowering,
    Read,
    choose,
    compute,
    const,
    highest,
    is_nan,
    lowest,
    maximum,
    minimum,
    reader,
    rounded,
    stored,
    wide,
)
from optc.backends.tvm.lower.scan import cumulative
from optc.ir.dtype import DType
from optc.ir.ops import (
    ArgMax,
    ArgMin,
    CumProd,
    CumSum,
    Op,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
)
from optc.ir.ops.reduction import Reduce
from optc.ir.types import TensorType

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]
Combine = Callable[[Expr, Expr], Expr]
Fold = Callable[..., Expr]


def sum_of(dtype: DType) -> Fold:
    """Reducer of the sum; of bools, "or"."""
    if dtype is DType.BOOL:
        return _folder(lambda a, b: tirx.Or(a, b), const(False, dtype), "any")
    total: Fold = te.sum
    return total


def product_of(dtype: DType) -> Fold:
    """Reducer of the product; of bools, "and"."""
    if dtype is DType.BOOL:
        return _folder(lambda a, b: tirx.And(a, b), const(True, dtype), "all")
    return _folder(lambda a, b: a * b, const(1, dtype), "product")


def max_of(dtype: DType) -> Fold:
    """Reducer of the maximum, nan if one is."""
    if dtype is DType.BOOL:
        return sum_of(dtype)
    return _folder(lambda a, b: maximum(a, b, dtype), lowest(dtype), "maximum")


def min_of(dtype: DType) -> Fold:
    """Reducer of the minimum, nan if one is."""
    if dtype is DType.BOOL:
        return product_of(dtype)
    return _folder(lambda a, b: minimum(a, b, dtype), highest(dtype), "minimum")


def quiet_max_of(dtype: DType) -> Fold:
    """Reducer of the maximum where nan need not survive: one instruction."""
    return _folder(lambda a, b: tirx.max(a, b), lowest(dtype), "maximum")


# TVM looks at the reducer's source, so a lambda stands even where an operator would do.
def _folder(combine: Combine, identity: Expr, name: str) -> Fold:
    reducer: Fold = te.comm_reducer(combine, lambda _: identity, name=name)
    return reducer


def fold(
    name: str, type: TensorType, axes: Sequence[int], read: Read, reducer: Fold, keepdims: bool
) -> te.Tensor:
    """`reducer` over `axes` of a tensor of `type` that `read` reads wide; the result is wide."""
    kept = [1 if axis in axes else dim for axis, dim in enumerate(type.shape)]
    shape = kept if keepdims else [d for axis, d in enumerate(type.shape) if axis not in axes]
    runs = {axis: te.reduce_axis((0, type.shape[axis]), f"r{axis}") for axis in axes}

    def element(*index: Expr) -> Expr:
        left = list(index)
        places = [
            runs[axis].var if axis in runs else left[axis] if keepdims else left.pop(0)
            for axis in range(type.rank)
        ]
        return reducer(read(*places), axis=list(runs.values()))

    return te.compute(tuple(shape), element, name=name)


def _reduce(reducer: Callable[[DType], Fold]) -> Lowering:
    def lower(op: Reduce, tensors: Tensors, types: Types) -> Tensors:
        (x,), (result,) = types, op.infer(*types)
        read = reader(tensors[0], x)
        if not op.axes:
            return [compute(op.name, result, read)]
        folded = fold(op.name, x, op.axes, read, reducer(wide(x.dtype)), op.keepdims)
        return [rounded(folded, result)]

    return lower


def _mean(op: ReduceMean, tensors: Tensors, types: Types) -> Tensors:
    (x,), (result,) = types, op.infer(*types)
    read, dtype = reader(tensors[0], x), wide(x.dtype)
    if not op.axes:
        return [compute(op.name, result, read)]
    total = fold("reduce_mean_sum", x, op.axes, read, te.sum, op.keepdims)
    count = const(float(math.prod(x.shape[axis] for axis in op.axes)), dtype)
    return [compute(op.name, result, lambda *index: total(*index) / count)]


def arg_extreme(
    dtype: DType, larger: bool, *, later_nan: bool = False
) -> Callable[..., Sequence[Expr]]:
    """Reducer of (place, value): the first of equals, a nan before all (the last one if asked)."""

    def combine(a: Sequence[Expr], b: Sequence[Expr]) -> tuple[Expr, Expr]:
        (i, x), (j, y) = a, b
        before = x > y if larger else x < y
        nan_x, nan_y = is_nan(x, dtype), is_nan(y, dtype)
        first_nan = tirx.all(nan_x, tirx.any(tirx.Not(nan_y), i > j if later_nan else i < j))
        left = tirx.any(before, first_nan, tirx.all(tirx.EQ(x, y), i < j))
        return choose(left, i, j), choose(left, x, y)

    def identity(_: Any, __: Any) -> tuple[Expr, Expr]:
        return tirx.const((1 << 31) - 1, "int32"), (lowest if larger else highest)(dtype)

    name = "argmax" if larger else "argmin"
    reducer: Callable[..., Sequence[Expr]] = te.comm_reducer(combine, identity, name=name)
    return reducer


def _arg(larger: bool) -> Lowering:
    def lower(op: ArgMax | ArgMin, tensors: Tensors, types: Types) -> Tensors:
        (x,), (result,) = types, op.infer(*types)
        read, dtype = stored(tensors[0], x), wide(x.dtype)
        if dtype is DType.BOOL:
            dtype, stored_bool = DType.U8, read
            read = lambda *index: tirx.Cast("uint8", stored_bool(*index))  # noqa: E731
        run = te.reduce_axis((0, x.shape[op.axis]), "r")
        reducer = arg_extreme(dtype, larger)

        def element(*index: Expr) -> Sequence[Expr]:
            tail = index[op.axis + 1 :] if op.keepdims else index[op.axis :]
            value = read(*index[: op.axis], run.var, *tail)
            return reducer((run.var, value), axis=run)

        places, _ = te.compute(result.shape, element, name=f"{op.name}_pairs")
        final = te.compute(
            result.shape, lambda *index: tirx.Cast("int64", places(*index)), name=op.name
        )
        return [final]

    return lower


LOWER: Mapping[type[Op], Lowering] = {
    ReduceSum: _reduce(sum_of),
    ReduceMean: _mean,
    ReduceProd: _reduce(product_of),
    ReduceMax: _reduce(max_of),
    ReduceMin: _reduce(min_of),
    ReduceAny: _reduce(sum_of),
    ReduceAll: _reduce(product_of),
    CumSum: cumulative,
    CumProd: cumulative,
    ArgMax: _arg(True),
    ArgMin: _arg(False),
}
