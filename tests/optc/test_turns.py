"""Artifacts in turns: who runs what, in which order, and what is made of the numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from optc.turns import FEW, LEAST, MANY, Pair, take_turns

Seen = list[tuple[str, int]]


@dataclass
class Recorder:
    """Stands for an artifact: writes down which call it was given, and answers a fixed time."""

    name: str
    nanoseconds: int
    seen: Seen
    states: tuple[str, ...] = ()
    resets: int = field(default=0)

    def bench(self, *, x: int, runs: int) -> np.ndarray[Any, Any]:
        """As an artifact's."""
        self.seen.append((self.name, x))
        return np.full(runs, self.nanoseconds, np.uint64)

    def reset(self) -> None:
        """As an artifact's."""
        self.resets += 1


def turns_of(calls: int, seconds: float) -> tuple[list[Any], Seen, list[Recorder]]:
    seen: Seen = []
    three = [Recorder("a", 100, seen), Recorder("b", 50, seen, ("s",)), Recorder("c", 200, seen)]
    inputs: Any = [{"x": number} for number in range(calls)]
    artifacts: Any = three
    return take_turns(artifacts, inputs, seconds), seen, three


def test_each_has_every_call_in_every_turn_and_another_is_first() -> None:
    times, seen, three = turns_of(6, 0.05)
    turns, calls = times[0].shape
    assert [found.shape for found in times] == [(turns, 6)] * 3
    assert FEW <= turns <= MANY
    assert [int(found.max()) for found in times] == [100, 50, 200]
    turn = [(name, x) for name in "abc" for x in (0, *range(calls))]  # a call to wake threads
    estimate = [(name, 0) for name in "abc" for _ in range(2)]
    assert seen[: len(estimate) + len(turn)] == [*estimate, *turn]
    rest = [name for name, _ in seen[len(estimate) + len(turn) :: calls + 1]]
    assert "".join(rest[:9]) == "abcbcacab"
    assert three[1].resets == sum(name == "b" for name, _ in seen)
    assert three[0].resets == 0


def test_where_time_is_short_some_calls_are_taken_evenly() -> None:
    times, seen, _ = turns_of(100, 1e-9)
    assert times[0].shape == (FEW, LEAST)
    assert {x for _, x in seen} == {0, 33, 66, 99}


def test_a_ratio_is_that_of_neighbouring_turns() -> None:
    """The machine is three times as slow in the last turns: no reason for another ratio."""
    drift = np.array([1, 1, 1, 3, 3])[:, None]
    before = drift * np.array([[100, 300]])
    after = drift * np.array([[50, 50]])  # leaves early on the second call
    pair = Pair.of(before.astype(np.uint64), after.astype(np.uint64))
    assert (pair.ratio, pair.low, pair.high) == pytest.approx((0.25, 0.25, 0.25))
    assert pair.before.runs == pair.after.runs == 10
    assert pair.after.p50 == pytest.approx(50e-9)
