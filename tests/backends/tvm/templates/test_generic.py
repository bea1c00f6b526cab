"""The template of everything: chains, moves, folds, hand-written loops, several stages."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.plan import Problem
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import (
    ArgMax,
    Concat,
    CumSum,
    Expand,
    LayerNorm,
    Op,
    Pad,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceProd,
    ReduceSum,
    Reshape,
    Slice,
    Softmax,
    Sort,
    Take,
    Transpose,
    ew,
)
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.templates.agreement import Case, body, check


def single(op: Op, *shapes: Sequence[int], dtype: DType = DType.F32) -> Case:
    """A body of one op."""
    builder = Builder("body")
    inputs = [builder.input(TensorType(tuple(shape), dtype)) for shape in shapes]
    return Case(builder.build(builder.emit_all(op, *inputs)))


FOLDS = (
    single(ReduceSum((1,)), (5, 384)),
    single(ReduceSum((0,)), (129, 37)),
    single(ReduceSum((0, 1)), (12, 33)),
    single(ReduceSum((1,), True), (3, 700, 5)),
    single(ReduceMax((0, 1, 2)), (7, 13, 11)),
    single(ReduceMean((2, 3)), (1, 6, 7, 7)),
    single(ReduceMean((1, 2)), (1, 7, 7, 20)),
    single(ReduceProd((1,)), (3, 1, 5)),
    single(ReduceSum((0,)), (300_001,)),
    single(ReduceSum((0,)), (40_000, 3)),
    single(ArgMax(axis=1), (5, 100)),
    single(ArgMax(axis=0), (40, 6)),
    single(ReduceAny((1,)), (4, 50), dtype=DType.BOOL),
    single(ReduceSum((1,)), (4, 50), dtype=DType.I64),
    single(ReduceSum((1,)), (4, 50), dtype=DType.F16),
)
MOVES = (
    single(Transpose((1, 0)), (30, 51)),
    single(Transpose((0, 3, 1, 2)), (1, 20, 7, 33)),
    single(Transpose((2, 0, 1)), (3, 4, 5)),
    single(Pad((0, 1), (2, 3)), (5, 37)),
    single(Slice((1, 2), (9, 30), (2, 3)), (10, 31)),
    single(Concat(axis=1), (4, 30, 5), (4, 7, 5)),
    single(Concat(axis=2), (4, 3, 50), (4, 3, 7)),
    single(Expand((4, 3, 20)), (3, 1)),
    single(Reshape((6, 20)), (4, 5, 6)),
    single(Transpose((1, 0)), (30, 51), dtype=DType.BOOL),
)
STAGES = (
    single(Softmax(axis=1), (7, 129)),
    single(Softmax(axis=0), (37, 20)),
    single(LayerNorm(), (9, 100), (100,), (100,)),
    single(Sort(axis=1), (4, 33)),
    single(CumSum(axis=1), (3, 50)),
)


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2"])
@pytest.mark.parametrize("cases", [FOLDS, MOVES, STAGES], ids=["folds", "moves", "stages"])
def test_ops_alone(cases: Sequence[Case], target: str) -> None:
    check(cases, find_target(target))


@settings(max_examples=8)
@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=4, max_size=4),
    st.data(),
)
def test_folds_of_any_shape(shapes: list[list[int]], data: st.DataObject) -> None:
    cases = []
    for shape in shapes:
        axes = st.sets(st.integers(0, len(shape) - 1), min_size=1)
        cases.append(single(ReduceSum(tuple(sorted(data.draw(axes)))), shape))
    check(cases)


@settings(max_examples=8)
@given(
    st.lists(st.lists(st.integers(1, 20), min_size=2, max_size=4), min_size=4, max_size=4),
    st.data(),
)
def test_transposes_of_any_shape(shapes: list[list[int]], data: st.DataObject) -> None:
    perms = [tuple(data.draw(st.permutations(range(len(shape))))) for shape in shapes]
    check([single(Transpose(perm), shape) for perm, shape in zip(perms, shapes, strict=True)])


def test_a_value_used_twice_and_broadcast() -> None:
    types = [TensorType((6, 21), DType.F32), TensorType((21,), DType.F32)]

    def make(builder: Builder, x: Value, scale: Value) -> Value:
        y = builder.emit(ew.Gelu(), builder.emit(ew.Mul(), x, scale))
        return builder.emit(ew.Add(), builder.emit(ew.Mul(), y, y), x)

    check([body(types, make)])


def test_moves_and_arithmetic_in_one_nest() -> None:
    types = [TensorType((2, 6, 3, 8), DType.F32), TensorType((2, 6, 24), DType.F32)]

    def make(builder: Builder, heads: Value, rows: Value) -> Value:
        merged = builder.emit(Reshape((2, 6, 24)), heads)
        return builder.emit(Transpose((0, 2, 1)), builder.emit(ew.Sub(), merged, rows))

    check([body(types, make)])


def test_gathers_of_computed_indices() -> None:
    types = [TensorType((9, 20), DType.F32), TensorType((2, 3), DType.I64)]

    def make(builder: Builder, table: Value, index: Value) -> Value:
        return builder.emit(Take(axis=0), table, builder.emit(ew.Abs(), index))

    check([body(types, make)])


def test_dtypes_that_have_no_vectors_of_their_own() -> None:
    def make(builder: Builder, x: Value, y: Value) -> Value:
        less = builder.emit(ew.Less(), x, y)
        either = builder.emit(ew.BitwiseOr(), less, builder.emit(ew.IsNan(), x))
        return builder.emit(ew.Where(), either, builder.emit(ew.Exp(), x), y)

    for dtype in (DType.F16, DType.BF16, DType.F64):
        check([body([TensorType((3, 77), dtype)] * 2, make)])


def test_empty_and_scalar_results() -> None:
    check([single(ew.Relu(), (3, 0, 2)), single(ew.Exp(), ()), single(ReduceSum((1,)), (3, 0))])


def test_it_takes_what_others_refuse_and_says_why() -> None:
    case = single(CumSum(axis=0), (5,))
    plan, misses = match(Problem(case.body, case.constants, find_target("host")))
    assert plan.template == "generic/1"
    assert misses
    assert all(miss.reason for _, miss in misses)
