"""The times of candidates on a noisy machine."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optc.autotune.trial_noise import WARM_UP, seconds_of

BASES = st.lists(st.floats(1e-6, 1e-1), min_size=1, max_size=6)
TIMES = st.lists(st.lists(st.floats(1e-6, 1.0), min_size=9, max_size=9), min_size=1, max_size=5)


def in_noise(bases: Sequence[float], noise: Sequence[float]) -> list[list[float]]:
    """Candidates in rounds that are slower by these factors, behind a slow first one."""
    return [[base * 7] + [base * factor for factor in noise] for base in bases]


@given(BASES, st.lists(st.floats(1.2, 50.0), max_size=10), st.integers(0, 5), st.randoms())
def test_noise_in_half_of_the_rounds_leaves_no_trace(
    bases: list[float], loud: list[float], more: int, random: Random
) -> None:
    noise = [1.0] * (len(loud) + 1 + more) + loud
    random.shuffle(noise)
    assert seconds_of(in_noise(bases, noise)) == bases


def test_one_lucky_call_does_not_win() -> None:
    steady = [5.0] * 21
    lucky = [6.0] * 10 + [4.0] + [6.0] * 10
    first, second = seconds_of([steady, lucky])
    assert (first, second) == (5.0, 6.0)


def test_one_hiccup_in_a_quiet_round_is_outvoted() -> None:
    steady = [5.0] * 21
    hiccup = [4.0] * 7 + [90.0] + [4.0] * 13
    assert seconds_of([steady, hiccup]) == [5.0, 4.0]


@given(TIMES, st.randoms())
def test_the_order_of_candidates_does_not_matter(times: list[list[float]], random: Random) -> None:
    order = list(range(len(times)))
    random.shuffle(order)
    found = seconds_of(times)
    assert seconds_of([times[i] for i in order]) == [found[i] for i in order]


@given(TIMES)
def test_what_is_found_was_measured(times: list[list[float]]) -> None:
    for row, seconds in zip(times, seconds_of(times), strict=True):
        assert seconds is not None
        assert min(row[WARM_UP:]) <= seconds <= max(row[WARM_UP:])


def test_a_candidate_that_was_left_out_early_has_its_own_median() -> None:
    long = [1.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    short = [9.0, 8.0, 8.0, 9.0]
    assert seconds_of([long, short]) == [1.0, 8.0]


@pytest.mark.parametrize(("row", "expected"), [([], None), ([2.0], 2.0), ([9.0, 2.0], 2.0)])
def test_few_rounds(row: list[float], expected: float | None) -> None:
    assert seconds_of([row]) == [expected]
