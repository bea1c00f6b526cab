"""Every plan satisfies the independent checker, and the checker knows a bad plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optc.backends.aot.check_plan import check_plan
from optc.backends.aot.exact_plan import exact_offsets
from optc.backends.aot.planner import Interval, lower_bound, plan_memory
from optc.backends.aot.sweep_plan import sweep_offsets


@st.composite
def interval(draw: st.DrawFn) -> Interval:
    first = draw(st.integers(0, 30))
    nbytes = draw(st.one_of(st.integers(0, 300), st.integers(0, 1 << 33)))
    return Interval(nbytes, first, first + draw(st.integers(0, 12)))


intervals = st.lists(interval(), max_size=40)


@given(intervals, st.sampled_from([1, 16, 64, 4096]))
@settings(max_examples=100, deadline=None)
def test_every_plan_is_accepted(values: list[Interval], alignment: int) -> None:
    plan = plan_memory(values, alignment)
    assert check_plan(values, plan.offsets, plan.nbytes, alignment) == []
    assert plan.nbytes >= plan.lower_bound == lower_bound(values, alignment)


@given(intervals)
@settings(deadline=None)
def test_equal_input_gives_an_equal_plan(values: list[Interval]) -> None:
    assert plan_memory(values) == plan_memory(values)


@given(intervals, st.data())
@settings(deadline=None)
def test_a_value_moved_onto_a_living_one_is_found(
    values: list[Interval], data: st.DataObject
) -> None:
    plan = plan_memory(values)
    pairs = [
        (a, b)
        for a, one in enumerate(values)
        for b, other in enumerate(values)
        if a != b and one.nbytes and other.nbytes
        if one.first <= other.last and other.first <= one.last
    ]
    assume(pairs)
    moved, onto = data.draw(st.sampled_from(pairs))
    offsets = list(plan.offsets)
    offsets[moved] = offsets[onto]
    assert any("overlap" in p for p in check_plan(values, offsets, plan.nbytes + (1 << 40)))


@given(intervals)
@settings(deadline=None)
def test_a_smaller_arena_and_a_crooked_offset_are_found(values: list[Interval]) -> None:
    plan = plan_memory(values)
    assume(any(value.nbytes > 64 for value in values))
    highest = max(o + v.nbytes for o, v in zip(plan.offsets, values, strict=True))
    assert check_plan(values, plan.offsets, highest - 1)
    assert check_plan(values, [plan.offsets[0] + 8, *plan.offsets[1:]], plan.nbytes + 64)
    assert check_plan(values, plan.offsets[1:], plan.nbytes)


def test_a_chain_reaches_the_lower_bound() -> None:
    chain = [Interval(1000 * (i % 3 + 1), i, i + 1) for i in range(50)]
    plan = plan_memory(chain)
    assert plan.nbytes == plan.lower_bound


def test_values_that_never_meet_share_their_bytes() -> None:
    plan = plan_memory([Interval(640, 0, 1), Interval(640, 2, 3), Interval(64, 1, 2)])
    assert plan.offsets[0] == plan.offsets[1]
    assert plan.nbytes == 704


def test_an_interval_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before"):
        plan_memory([Interval(64, 3, 2)])


def lowest(values: list[Interval], order: Sequence[int]) -> int:
    """The arena when each value in turn takes the lowest place that is free."""
    placed: list[tuple[int, int]] = []
    for index in order:
        value = values[index]
        near = sorted(
            (at, at + values[other].nbytes)
            for other, at in placed
            if values[other].first <= value.last and value.first <= values[other].last
        )
        at = 0
        for begin, end in near:
            if begin >= at + value.nbytes:
                break
            at = max(at, end)
        placed.append((index, at))
    return max((at + values[index].nbytes for index, at in placed), default=0)


@st.composite
def few(draw: st.DrawFn) -> list[Interval]:
    def one() -> Interval:
        first = draw(st.integers(0, 6))
        return Interval(64 * draw(st.integers(1, 9)), first, first + draw(st.integers(0, 4)))

    return [one() for _ in range(draw(st.integers(1, 6)))]


@given(few())
@settings(max_examples=60)
def test_few_values_are_placed_as_well_as_any_order_can(values: list[Interval]) -> None:
    """Every packing is an order of lowest places: the lowest of all orders is the optimum."""
    best = min(lowest(values, order) for order in permutations(range(len(values))))
    rows = [(value.nbytes, value.first, value.last) for value in values]
    total = sum(value.nbytes for value in values)
    offsets = exact_offsets(rows, 64, lower_bound(values), total)
    assert offsets is not None
    solved = max(int(at) + value.nbytes for at, value in zip(offsets, values, strict=True))
    assert check_plan(values, offsets.tolist(), solved) == []
    assert solved == best
    assert plan_memory(values).nbytes == best


@given(intervals)
@settings(deadline=None)
def test_a_sweep_is_accepted(values: list[Interval]) -> None:
    rows = [(-(-value.nbytes // 64) * 64, value.first, value.last) for value in values]
    offsets = sweep_offsets(rows)
    end = max((o + size for o, (size, _, _) in zip(offsets, rows, strict=True)), default=0)
    assert check_plan(values, offsets, end) == []


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=40))
@settings(deadline=None)
def test_a_sweep_of_equal_sizes_reaches_the_bound(spans: list[tuple[int, int]]) -> None:
    values = [Interval(64, first, first + more) for first, more in spans]
    offsets = sweep_offsets([(64, value.first, value.last) for value in values])
    assert max((o + 64 for o in offsets), default=0) == lower_bound(values)


def test_many_values_alive_together_take_a_sweep() -> None:
    count = 2500
    values = [Interval(4096, step, 2 * count - step) for step in range(count)]
    plan = plan_memory(values)
    assert plan.strategy == "sweep"
    assert plan.nbytes == plan.lower_bound
    assert check_plan(values, plan.offsets, plan.nbytes) == []
