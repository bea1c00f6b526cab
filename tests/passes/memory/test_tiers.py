"""Placements in tiers: accepted by the checker for any graph and capacity; copies come in time."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optc.ir.diagnostics import OptcError
from optc.ir.module import module_of
from optc.ir.targets.find import find_target
from optc.passes.base import PassContext
from optc.passes.memory.check_tiers import check_tiers
from optc.passes.memory.map_memory import MapMemory
from optc.passes.memory.place_tiers import place_greedily
from optc.passes.memory.tiers import Residence, TierCopy, TierPlan, lower_bound, simulate
from optc.passes.memory.traffic import Buffer, Machine, Schedule, Tier, schedule_of
from tests.passes.memory.test_reorder import branching

TARGET = find_target("cortex-a76")


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Steps with buffers of many sizes; some are given, some made, some the caller's."""
    count = draw(st.integers(1, 14))
    buffers = []
    for number in range(draw(st.integers(1, 12))):
        nbytes = draw(st.integers(1, 5000))
        uses = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=5)))
        made = draw(st.sampled_from([None, uses[0]]))
        fixed = draw(st.integers(0, 5)) == 0
        moved = {use: draw(st.sampled_from([nbytes, nbytes // 2 + 1])) for use in uses}
        buffers.append(Buffer(f"b{number}", nbytes, made, moved, fixed))
    flops = tuple(draw(st.sampled_from([0, 100, 10_000, 100_000])) for _ in range(count))
    return Schedule(tuple(f"s{step}" for step in range(count)), flops, tuple(buffers))


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Any capacity; the fast tier is faster, by little or much."""
    slow = draw(st.sampled_from([1e6, 1e7]))
    fast = Tier("fast", draw(st.integers(64, 20_000)), slow * draw(st.sampled_from([2, 20])), 0.0)
    return Machine(fast, Tier("slow", 1 << 62, slow, draw(st.sampled_from([0.0, 1e-4]))), 1e8)


@given(schedules(), machines())
@settings(max_examples=120)
def test_every_plan_is_accepted_and_worth_its_copies(schedule: Schedule, machine: Machine) -> None:
    plan = place_greedily(schedule, machine)
    assert list(check_tiers(schedule, machine.fast.size, plan)) == []
    found = simulate(schedule, machine, plan)
    least, without = lower_bound(schedule, machine), simulate(schedule, machine, TierPlan())
    assert least <= found.makespan * (1 + 1e-9)
    assert found.makespan <= without.makespan * (1 + 1e-9)
    ends = sorted(found.copies)
    assert all(a[1] <= b[0] + 1e-12 for a, b in pairwise(ends))
    for copy, (begin, end) in zip(plan.copies, found.copies, strict=True):
        assert found.begins[copy.start] <= begin + 1e-12
        if copy.done < len(found.begins):
            assert end <= found.begins[copy.done] + 1e-12


@given(schedules(), machines())
@settings(max_examples=40)
def test_a_tier_that_holds_everything_serves_every_use_that_pays(
    schedule: Schedule, machine: Machine
) -> None:
    made = tuple(b for b in schedule.buffers if b.made is not None and not b.fixed)
    own = replace(schedule, buffers=made)
    large = replace(machine, fast=replace(machine.fast, size=1 << 40))
    plan = place_greedily(own, large)
    assert simulate(own, large, plan).makespan <= simulate(own, large, TierPlan()).makespan


@given(branching(most=10), st.integers(64, 4000))
@settings(max_examples=40)
def test_graphs_are_placed(graph: object, capacity: int) -> None:
    schedule = schedule_of(graph)  # type: ignore[arg-type]
    machine = Machine(Tier("f", capacity, 1e9, 0.0), Tier("s", 1 << 62, 1e8, 0.0), 1e9)
    plan = place_greedily(schedule, machine)
    assert list(check_tiers(schedule, capacity, plan)) == []


@given(schedules(), machines(), st.integers(0, 9))
@settings(max_examples=60)
def test_the_checker_knows_a_broken_plan(schedule: Schedule, machine: Machine, seed: int) -> None:
    """Whatever is taken away from a plan that needs it is missed."""
    plan = place_greedily(schedule, machine)
    assume(plan.residences)
    choose = random.Random(seed)
    at = choose.randrange(len(plan.residences))
    without = plan.residences[:at] + plan.residences[at + 1 :]
    assert list(check_tiers(schedule, machine.fast.size, replace(plan, residences=without)))
    tall = max(r.offset + schedule.buffers[r.buffer].nbytes for r in plan.residences)
    assert list(check_tiers(schedule, tall - 1, plan))
    fetched = [copy for copy in plan.copies if copy.to_fast]
    if fetched:
        lost = choose.choice(fetched)
        dropped = replace(plan, copies=tuple(c for c in plan.copies if c is not lost))
        assert list(check_tiers(schedule, machine.fast.size, dropped))


def test_a_step_waits_for_its_copy_and_copies_for_each_other() -> None:
    buffers = tuple(Buffer(f"w{n}", 1000, None, {2: 1000}) for n in range(2))
    schedule = Schedule(("a", "b", "c"), (0, 0, 0), buffers)
    machine = Machine(Tier("fast", 2048, 1e6, 0.0), Tier("slow", 1 << 62, 1e6, 0.0), 1e9)
    stays = tuple(Residence(n, 1024 * n, 0, 2) for n in range(2))
    copies = tuple(TierCopy(n, 0, 2, to_fast=True) for n in range(2))
    plan = TierPlan(stays, copies, frozenset({(0, 2), (1, 2)}))
    assert list(check_tiers(schedule, 2048, plan)) == []
    found = simulate(schedule, machine, plan)
    assert found.copies == ((0.0, 0.001), (0.001, 0.002))
    assert found.begins == (0.0, 0.0, 0.002)
    assert found.stalled == pytest.approx(0.002)
    assert found.makespan == pytest.approx(0.004)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"fast": "sram"}, "E0138"),
        ({"fast": "file"}, "E0138"),
        ({"capacity": 64}, "E0139"),
    ],
)
def test_a_memory_that_is_not_there_or_holds_nothing_is_refused(
    options: dict[str, object], code: str
) -> None:
    from optc.ir.builder import Builder
    from optc.ir.dtype import DType
    from optc.ir.ops import ew
    from optc.ir.types import TensorType

    builder = Builder("g")
    x = builder.input(TensorType((64,), DType.F32))
    module = module_of(builder.build([builder.emit(ew.Tanh(), builder.emit(ew.Exp(), x))]))
    with pytest.raises(OptcError, match=code):
        MapMemory(**options).run(module, PassContext(TARGET))  # type: ignore[arg-type]
