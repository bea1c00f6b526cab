"""Row-wise tasks in one loop over rows, and what is left to the generic template."""

from __future__ import annotations

import pytest

from optc.backends.tvm.templates.plan import Miss, Problem
from optc.backends.tvm.templates.rows import Rows
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import LayerNorm, LogSoftmax, ReduceSum, RmsNorm, Softmax, Transpose, ew
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.templates.agreement import Case, body, check
from tests.backends.tvm.templates.test_generic import single

ROWS = (
    single(Softmax(axis=2), (2, 7, 129)),
    single(Softmax(axis=1), (1, 1000)),
    single(LogSoftmax(axis=1), (5, 40)),
    single(LayerNorm(), (9, 100), (100,), (100,)),
    single(LayerNorm(axes=2), (3, 6, 16), (6, 16)),
    single(RmsNorm(), (2, 3, 33), (33,)),
    single(ReduceSum((1,)), (5, 384)),
    single(ReduceSum((2, 3), True), (2, 3, 7, 7)),
)


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2"])
def test_rows(target: str) -> None:
    assert set(check(ROWS, find_target(target))) == {"rows/1"}


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F64])
def test_dtypes(dtype: DType) -> None:
    case = single(Softmax(axis=1), (5, 37), dtype=dtype)
    assert check([case, single(LayerNorm(), (5, 37), (37,), dtype=dtype)]) == ["rows/1"] * 2


def test_what_comes_before_and_after_is_part_of_the_row() -> None:
    types = [TensorType((2, 5, 64), DType.F32)] * 2 + [TensorType((64,), DType.F32)] * 2

    def make(builder: Builder, x: Value, residual: Value, weight: Value, bias: Value) -> Value:
        total = builder.emit(ew.Add(), x, residual)
        return builder.emit(ew.Gelu(), builder.emit(LayerNorm(), total, weight, bias))

    assert check([body(types, make)]) == ["rows/1"]


def test_masked_softmax_with_a_broadcast_mask() -> None:
    types = [TensorType((2, 3, 10, 20), DType.F32), TensorType((2, 1, 1, 20), DType.F32)]

    def make(builder: Builder, scores: Value, mask: Value) -> Value:
        return builder.emit(Softmax(axis=3), builder.emit(ew.Add(), scores, mask))

    assert check([body(types, make)]) == ["rows/1"]


def _reason(case: Case) -> str:
    answer = Rows().match(Problem(case.body, case.constants, find_target("host")))
    assert isinstance(answer, Miss)
    return answer.reason


def test_misses_say_why() -> None:
    def moved(builder: Builder, x: Value) -> Value:
        return builder.emit(Transpose((1, 0)), builder.emit(Softmax(axis=1), x))

    case = body([TensorType((6, 32), DType.F32)], moved)
    assert "leading axes" in _reason(case) or "other rows" in _reason(case)
    check([case])
    assert "nothing is folded" in _reason(single(ew.Exp(), (4, 5)))
    assert "in order" in _reason(single(ReduceSum((0,)), (40, 384)))
    assert "short" in _reason(single(Softmax(axis=1), (9, 4)))
