"""Products cut along K, a part for each core, and panels of merged projections by turns."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.gemm import GemmPlan
from optc.backends.tvm.templates.gemm_cost import GemmKnobs
from optc.backends.tvm.templates.plan import Knobs, Plan, Problem
from optc.ir.dtype import DType
from optc.ir.targets.find import find_target
from optc.ir.targets.target import MemorySpace, Target
from tests.backends.tvm.loaded import Loaded
from tests.backends.tvm.templates.agreement import Case
from tests.backends.tvm.templates.test_gemm import linear

# Caches so small that weights lie far and results near.
MEMORY = (MemorySpace("l1", 1 << 10), MemorySpace("l2", 1 << 14), MemorySpace("dram", 1 << 30))


def machine(name: str = "host", cores: int = 2) -> Target:
    return replace(find_target(name), cores=cores, memory=MEMORY)


def settings_of(case: Case, target: Target) -> tuple[GemmPlan, list[GemmKnobs]]:
    plan, _ = match(Problem(case.body, case.constants, target))
    assert isinstance(plan, GemmPlan)
    knobs = [each for each in plan.candidates() if isinstance(each, GemmKnobs)]
    return plan, knobs


def agree(cases: list[Case], target: Target, choice: int = 0) -> None:
    """All of them in parts, beside the reference."""

    def in_parts(problem: Problem) -> tuple[Plan, Knobs]:
        plan, _ = match(problem)
        parts = [each for each in plan.candidates() if getattr(each, "parts", 1) > 1]
        return plan, parts[choice % len(parts)]

    loaded = Loaded(
        [case.body for case in cases], [case.constants for case in cases], target, plan=in_parts
    )
    for number, case in enumerate(cases):
        case.compare(number, loaded(number, case.inputs(number)), "parts")


@settings(max_examples=3)
@given(
    st.lists(
        st.tuples(st.integers(2, 20), st.integers(1, 100), st.integers(1, 40)),
        min_size=3,
        max_size=3,
    ),
    st.integers(2, 4),
    st.integers(0, 20),
)
def test_any_shape_in_parts(shapes: list[tuple[int, int, int]], cores: int, choice: int) -> None:
    # Weights, of a vector's columns at least, do not stay in the second cache.
    least = 3072 // (16 * cores) + 1
    cases = [linear(m, n, cores * (k + least), bias=k % 2 == 0) for m, n, k in shapes]
    agree(cases, machine(cores=cores), choice)


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2"])
def test_epilogues_behind_sums_of_parts(target: str) -> None:
    cases = [linear(9, 40, 128, epilogue=name) for name in ("gelu residual", "heads", "relu")]
    agree(cases, machine(target))


def test_only_floats_whose_weights_lie_far_are_cut() -> None:
    far, near = machine(), replace(machine(), memory=find_target("host").memory)
    cases = {
        linear(9, 40, 128): [(far, True), (near, False), (replace(far, cores=1), False)],
        linear(1, 40, 128): [(far, False)],
        linear(9, 40, 129): [(far, False)],
        linear(300, 40, 128): [(far, False)],
        linear(9, 40, 256, DType.BF16): [(far, False)],
    }
    for case, expected in cases.items():
        for target, cut in expected:
            _, knobs = settings_of(case, target)
            assert any(each.parts > 1 for each in knobs) is cut


def test_sums_longer_than_results_are_wide_are_cut_first() -> None:
    host = replace(find_target("x86-64-v4"), cores=2)
    assert [
        settings_of(linear(128, n, k), host)[1][0].parts for n, k in ((384, 1536), (1536, 384))
    ] == [2, 1]


@pytest.mark.parametrize("cores", [1, 2])
def test_queries_keys_and_values_take_turns(cores: int) -> None:
    cases = [linear(m, 3 * k, k, bias=bias) for m, k, bias in ((7, 96, True), (20, 64, False))]
    near, small = (
        replace(machine(cores=cores), memory=(MEMORY[0], MemorySpace("l2", size), MEMORY[2]))
        for size in (1 << 17, 1 << 13)
    )
    for case in cases:
        far, settings = settings_of(case, small)
        assert {far.sections(each) for each in settings} == {1}
        plan, knobs = settings_of(case, near)
        turns = [each for each in knobs if plan.sections(each) == 3]
        assert bool(turns) is (cores > 1)
        for each in turns[:4]:
            loaded = Loaded(
                [case.body], [case.constants], near, plan=lambda _, k=each, p=plan: (p, k)
            )
            case.compare(0, loaded(0, case.inputs(0)), repr(each))
