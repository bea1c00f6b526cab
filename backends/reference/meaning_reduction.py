"""What reductions, running folds and orderings mean, as torch functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from optc.backends.reference.dtypes import Meaning, widened
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
    Sort,
    TopK,
)


def _fold(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Meaning:
    """A torch reduction over several axes; torch takes no axes for all axes, the IR for none."""

    def meaning(op: Any, x: Tensor) -> Tensor:
        return function(x, op.axes, op.keepdims) if op.axes else x

    return meaning


def _sum(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    return torch.sum(x, axes, keepdims, dtype=x.dtype)


def _product(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    for axis in reversed(axes):
        x = torch.prod(x, axis, keepdims, dtype=x.dtype)
    return x


def _arg(function: Callable[[Tensor, int, bool], Tensor]) -> Meaning:
    def meaning(op: ArgMax | ArgMin, x: Tensor) -> Tensor:
        return function(x.byte() if x.dtype is torch.bool else x, op.axis, op.keepdims)

    return meaning


def _sort(op: Sort, x: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.sort(x, dim=op.axis, descending=op.descending, stable=True))


def _top_k(op: TopK, x: Tensor) -> tuple[Tensor, ...]:
    # Not torch.topk: it promises no order among equals.
    ordered = torch.sort(x, dim=op.axis, descending=op.largest, stable=True)
    return tuple(part.narrow(op.axis, 0, op.k) for part in ordered)


MEANING: Mapping[type[Op], Meaning] = {
    ReduceSum: widened(_fold(_sum)),
    ReduceMean: widened(_fold(torch.mean)),
    ReduceProd: widened(_fold(_product)),
    ReduceMax: _fold(torch.amax),
    ReduceMin: _fold(torch.amin),
    ReduceAny: _fold(torch.any),
    ReduceAll: _fold(torch.all),
    CumSum: widened(lambda op, x: torch.cumsum(x, op.axis, dtype=x.dtype)),
    CumProd: widened(lambda op, x: torch.cumprod(x, op.axis, dtype=x.dtype)),
    ArgMax: _arg(torch.argmax),
    ArgMin: _arg(torch.argmin),
    Sort: _sort,
    TopK: _top_k,
}
