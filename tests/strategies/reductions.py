"""Instances of reductions, running folds, orderings and normalisations along axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.ir.dtype import DType
from optc.ir.ops import (
    ArgMax,
    ArgMin,
    CumProd,
    CumSum,
    LayerNorm,
    LogSoftmax,
    Op,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    RmsNorm,
    Softmax,
    Sort,
    TopK,
)
from optc.ir.types import TensorType
from tests.strategies.shapes import ANY, FLOATS, NUMBERS, axis_of, dtypes, shapes
from tests.strategies.values import Normal, Uniform, Values, Whole

Parts = tuple[Op, list[TensorType], list[Values]]

_DTYPES: Mapping[type[Op], tuple[DType, ...]] = {
    **dict.fromkeys((ReduceSum, ReduceProd, CumSum, CumProd), NUMBERS),
    ReduceMean: FLOATS,
    **dict.fromkeys((ReduceMax, ReduceMin, ArgMax, ArgMin, Sort, TopK), ANY),
    **dict.fromkeys((ReduceAny, ReduceAll), (DType.BOOL,)),
    **dict.fromkeys((Softmax, LogSoftmax), FLOATS),
}


def _reduce(draw: DrawFn, kind: type[Op]) -> Parts:
    x = TensorType(draw(shapes()), draw(dtypes(_DTYPES[kind])))
    axes = tuple(axis for axis in range(x.rank) if draw(st.booleans()))
    values: Values = Normal()
    if kind in (ReduceMax, ReduceMin):
        values = Normal(special=draw(st.booleans()))
    elif kind is ReduceProd:
        values = Uniform(0.7, 1.4) if x.dtype.is_float else Whole(0, 3, nonzero=True)
    return kind(axes, draw(st.booleans())), [x], [values]  # type: ignore[call-arg]


def _along(draw: DrawFn, kind: type[Op]) -> Parts:
    x = TensorType(draw(shapes(1)), draw(dtypes(_DTYPES[kind])))
    values: Values = Normal()
    if kind is CumProd:
        values = Uniform(0.7, 1.4) if x.dtype.is_float else Whole(0, 3, nonzero=True)
    return kind(axis_of(draw, x.shape)), [x], [values]  # type: ignore[call-arg]


def _arg(draw: DrawFn, kind: type[Op]) -> Parts:
    x = TensorType(draw(shapes(1)), draw(dtypes(_DTYPES[kind])))
    op = kind(axis_of(draw, x.shape), draw(st.booleans()))  # type: ignore[call-arg]
    return op, [x], [_with_ties(draw)]


def _with_ties(draw: DrawFn) -> Values:
    return Whole(0, 3) if draw(st.booleans()) else Normal(special=draw(st.booleans()))


def _sort(draw: DrawFn, _: type[Op]) -> Parts:
    x = TensorType(draw(shapes(1)), draw(dtypes(ANY)))
    return Sort(axis_of(draw, x.shape), draw(st.booleans())), [x], [_with_ties(draw)]


def _top_k(draw: DrawFn, _: type[Op]) -> Parts:
    x = TensorType(draw(shapes(1)), draw(dtypes(ANY)))
    axis = axis_of(draw, x.shape)
    k = draw(st.integers(1, x.shape[axis]))
    return TopK(k, axis, draw(st.booleans())), [x], [_with_ties(draw)]


def _norm(draw: DrawFn, kind: type[Op]) -> Parts:
    x = TensorType(draw(shapes(1)), draw(dtypes(FLOATS)))
    axes = draw(st.integers(1, x.rank))
    affine = draw(st.integers(0, kind.arity[1] - 1))
    rest = [x.with_shape(x.shape[-axes:])] * affine
    # A small epsilon over few elements amplifies the last bit of the variance.
    op = kind(axes, 0.1)  # type: ignore[call-arg]
    return op, [x, *rest], [Normal(1.0)] * (1 + affine)


MAKERS: Mapping[type[Op], Callable[[DrawFn, type[Op]], Parts]] = {
    **dict.fromkeys((ReduceSum, ReduceMean, ReduceProd, ReduceMax, ReduceMin), _reduce),
    **dict.fromkeys((ReduceAny, ReduceAll), _reduce),
    **dict.fromkeys((CumSum, CumProd, Softmax, LogSoftmax), _along),
    **dict.fromkeys((ArgMax, ArgMin), _arg),
    Sort: _sort,
    TopK: _top_k,
    LayerNorm: _norm,
    RmsNorm: _norm,
}
