"""Products of activations: batches, broadcasting, transposed operands, ragged shapes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Linear, MatMul, Transpose, ew
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.templates.agreement import Case, body, check

SHAPES = (
    ((5, 7), (7, 9)),
    ((2, 3, 5, 7), (2, 3, 7, 33)),
    ((2, 3, 17, 7), (1, 3, 7, 9)),
    ((4, 1, 8), (3, 4, 8, 1)),
    ((2, 40, 11), (11, 50)),
    ((128, 4), (1, 4, 24)),
)


def matmul(left: Sequence[int], right: Sequence[int], transposed: bool, dtype: DType) -> Case:
    """`left` by `right`, stored transposed if asked."""
    shape = (*right[:-2], right[-1], right[-2]) if transposed else right
    types = [TensorType(tuple(left), dtype), TensorType(tuple(shape), dtype)]
    return body(types, lambda b, x, y: b.emit(MatMul(transpose_b=transposed), x, y))


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.F64])
@pytest.mark.parametrize("transposed", [False, True])
def test_batches_and_broadcasting(transposed: bool, dtype: DType) -> None:
    cases = [matmul(*shapes, transposed, dtype) for shapes in SHAPES]
    assert set(check(cases)) == {"batch_matmul/1"}


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v2"])
def test_narrower_instruction_sets(target: str) -> None:
    check([matmul(*SHAPES[1], t, DType.F32) for t in (False, True)], find_target(target))


@settings(max_examples=5)
@given(
    st.lists(st.tuples(*[st.integers(1, 40)] * 3), min_size=3, max_size=3),
    st.booleans(),
    st.integers(0, 10),
)
def test_any_shape_with_any_knobs(
    shapes: list[tuple[int, int, int]], transposed: bool, choice: int
) -> None:
    cases = [matmul((2, m, k), (2, k, n), transposed, DType.F32) for m, n, k in shapes]
    check(cases, choice=choice)


def test_heads_are_read_where_they_lie() -> None:
    types = [TensorType((1, 6, 3, 8), DType.F32)] * 2

    def make(builder: Builder, q: Value, k: Value) -> Value:
        q, k = (builder.emit(Transpose((0, 2, 1, 3)), x) for x in (q, k))
        scores = builder.emit(MatMul(transpose_b=True), q, k)
        return builder.emit(ew.Mul(), scores, builder.splat(0.5, TensorType((), DType.F32)))

    assert check([body(types, make)]) == ["batch_matmul/1"]


def test_weights_that_are_inputs() -> None:
    types = [
        TensorType((3, 5), DType.F32),
        TensorType((4, 5), DType.F32),
        TensorType((4,), DType.F32),
    ]
    assert check([body(types, lambda b, *x: b.emit(Linear(), *x))]) == ["batch_matmul/1"]


def test_panels_too_large_for_a_stack_lie_in_the_workspace() -> None:
    check([matmul((2, 3, 700), (2, 700, 20), True, DType.F32)])
