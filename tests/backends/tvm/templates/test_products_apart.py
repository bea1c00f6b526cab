"""Products on SSE with two sums for each result: any shape, epilogue and operand; when chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.gemm import GemmPlan
from optc.backends.tvm.templates.gemm_cost import GemmKnobs
from optc.backends.tvm.templates.plan import Knobs, Plan, Problem
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Linear, MatMul, Reshape, Transpose, ew
from optc.ir.targets.find import find_target
from optc.ir.targets.target import MemorySpace
from optc.ir.types import TensorType
from tests.backends.tvm.loaded import Loaded
from tests.backends.tvm.templates.agreement import Case, body
from tests.backends.tvm.templates.test_gemm import linear

MACHINE = replace(find_target("x86-64-v2"), cores=2)
SMALL = (MemorySpace("l1", 1 << 10), MemorySpace("l2", 1 << 12), MemorySpace("dram", 1 << 30))


def settings_of(problem: Problem) -> tuple[GemmPlan, list[GemmKnobs]]:
    """The plan, and its settings with sums apart."""
    plan, _ = match(problem)
    assert isinstance(plan, GemmPlan)
    found = [knobs for knobs in plan.candidates() if isinstance(knobs, GemmKnobs)]
    return plan, [knobs for knobs in found if knobs.apart]


def agree(cases: list[Case], choice: int = 0, parts: bool = False, far: bool = False) -> None:
    """All of them with sums apart, beside the reference."""

    def chosen(problem: Problem) -> tuple[Plan, Knobs]:
        plan, found = settings_of(problem)
        found = [knobs for knobs in found if (knobs.parts > 1) is parts]
        return plan, found[choice % len(found)]

    target = replace(MACHINE, memory=SMALL) if far else MACHINE
    loaded = Loaded(
        [case.body for case in cases], [case.constants for case in cases], target, plan=chosen
    )
    for number, case in enumerate(cases):
        case.compare(number, loaded(number, case.inputs(number)), "sums apart")


@settings(max_examples=4)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 60), st.integers(1, 50)),
        min_size=4,
        max_size=4,
    ),
    st.integers(0, 60),
    st.booleans(),
)
def test_any_shape_with_any_settings(
    shapes: list[tuple[int, int, int]], choice: int, far: bool
) -> None:
    agree([linear(*shape, bias=shape[0] % 2 == 0) for shape in shapes], choice, far=far)


@pytest.mark.parametrize("choice", [0, 7])
def test_one_element_odd_lengths_and_ragged_columns(choice: int) -> None:
    shapes = (13, 9, 1), (14, 7, 3), (1, 1, 1), (27, 33, 17), (5, 6, 2), (26, 2, 5)
    agree([linear(*shape) for shape in shapes], choice)


@pytest.mark.parametrize("choice", [0, 5])
@pytest.mark.parametrize("parts", [False, True])
def test_epilogues(choice: int, parts: bool) -> None:
    names = "gelu", "relu residual", "heads", "gelu heads"
    cases = [linear(m, 20, 44, epilogue=name) for name in names for m in (5, 24)]
    agree(cases, choice, parts, far=parts)


def test_operands_either_way_round_moved_and_computed() -> None:
    def product(transpose_b: bool) -> Case:
        x, weight = TensorType((2, 3, 10), DType.F32), (10, 21)
        right = TensorType(weight[::-1] if transpose_b else weight, DType.F32)
        op = MatMul(transpose_b=transpose_b)
        return body([x, right], lambda builder, a, b: builder.emit(op, a, b), [1])

    def merged(builder: Builder, heads: Value, weight: Value) -> Value:
        rows = builder.emit(Reshape((1, 6, 32)), builder.emit(Transpose((0, 2, 1, 3)), heads))
        return builder.emit(Transpose((2, 0, 1)), builder.emit(Linear(), rows, weight))

    def computed(builder: Builder, x: Value, weight: Value) -> Value:
        return builder.emit(Linear(), builder.emit(ew.Tanh(), x), weight)

    moves = [TensorType((1, 4, 6, 8), DType.F32), TensorType((10, 32), DType.F32)]
    before = [TensorType((6, 11), DType.F32), TensorType((10, 11), DType.F32)]
    agree([product(False), product(True), body(moves, merged, [1]), body(before, computed, [1])])


def test_infinite_elements_of_odd_rows_meet_no_zero() -> None:
    case = linear(13, 8, 7)
    inputs = case.inputs(0)
    inputs[0][0, :, -1] = float("inf")
    plan, found = settings_of(Problem(case.body, case.constants, MACHINE))
    loaded = Loaded([case.body], [case.constants], MACHINE, plan=lambda problem: (plan, found[0]))
    assert not loaded(0, inputs)[0].isnan().any()


@pytest.mark.parametrize(
    ("m", "apart"), [(1, 0), (4, 2), (6, 1), (12, 1), (31, 1), (128, 1), (197, 1)]
)
def test_what_is_chosen(m: int, apart: int) -> None:
    case = linear(m, 384, 384)
    plan, _ = match(Problem(case.body, case.constants, MACHINE))
    first = plan.candidates()[0]
    assert isinstance(first, GemmKnobs)
    assert first.apart == apart


@pytest.mark.parametrize("name", ["x86-64-v3", "znver4", "aarch64"])
def test_not_where_one_instruction_multiplies_and_adds(name: str) -> None:
    case = linear(128, 384, 384)
    assert not settings_of(Problem(case.body, case.constants, find_target(name)))[1]
    halves = linear(128, 384, 384, DType.BF16)
    assert not settings_of(Problem(halves.body, halves.constants, MACHINE))[1]
