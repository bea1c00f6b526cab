"""How many sums a small tile keeps, and when threads share a product."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.gemm import GemmPlan
from optc.backends.tvm.templates.plan import Problem
from optc.backends.tvm.templates.tile import block_of, ways
from optc.ir.dtype import DType
from optc.ir.targets.find import find_target
from tests.backends.tvm.templates.agreement import check
from tests.backends.tvm.templates.test_gemm import linear

MACHINE = replace(find_target("znver5"), cores=2)


def plan_of(m: int, n: int, k: int, dtype: DType = DType.F32) -> GemmPlan:
    """The plan for Zen 5, on two cores."""
    case = linear(m, n, k, dtype, bias=False)
    plan, _ = match(Problem(case.body, case.constants, MACHINE))
    assert isinstance(plan, GemmPlan)
    return plan


@given(st.integers(1, 28), st.integers(1, 400), st.sampled_from([4, 6]), st.sampled_from([8, 16]))
def test_sums_keep_the_units_busy_as_far_as_registers_go(
    sums: int, steps: int, latency: int, room: int
) -> None:
    count = ways(sums, steps, latency, room)
    assert count == 1 or (sums * count <= room and 4 * count <= steps)
    if steps >= 4 * room and sums * (count + 1) <= min(room, 3 * latency):
        assert sums * count >= 2 * latency
    assert block_of(2, count) % count == 0


def test_a_number_of_sums_that_divides_the_steps_is_preferred() -> None:
    assert ways(3, 64) == 2  # eight registers are all there is
    assert (ways(3, 64, room=16), ways(3, 63, room=16)) == (4, 3)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_several_sums_of_any_number_are_added_up(dtype: DType) -> None:
    shapes = (3, 16, 67), (1, 64, 100), (2, 48, 97), (5, 16, 130), (6, 16, 64)
    cases = [linear(*shape, dtype, bias=False) for shape in shapes]
    for choice in range(3):
        check(cases, choice=choice)


def shares(plan: GemmPlan) -> bool:
    """Whether threads share the work of the best guess."""
    return "T.parallel" in plan.emit("k", plan.candidates()[0]).function.script()


@pytest.mark.parametrize(
    ("shape", "dtype", "shared"),
    [
        ((1, 64, 64), DType.F32, False),
        ((3, 64, 64), DType.F32, False),
        ((16, 64, 64), DType.F32, True),
        ((8, 128, 128), DType.BF16, True),
        ((3, 128, 128), DType.BF16, False),
        ((128, 128, 128), DType.F32, True),
    ],
)
def test_threads_share_what_takes_longer_than_waking_them(
    shape: tuple[int, int, int], dtype: DType, shared: bool
) -> None:
    assert shares(plan_of(*shape, dtype)) is shared


def test_what_one_thread_does_takes_the_tile_that_suits_one() -> None:
    knobs = plan_of(3, 64, 64).candidates()[0]
    assert (knobs.rows, knobs.vectors) == (3, 4)  # two panels of two would suit two threads
