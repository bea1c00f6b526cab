"""Memory planner: where each value lies in the arena, so that values alive together never overlap.

Offline dynamic storage allocation is NP-hard; greedy best-fit in a good order is close to the lower
bound on inference graphs (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
Inference", 2020, whose greedy-by-size is the first order here). Several orders are tried and the
smallest arena wins; where none reaches the bound, the best order is improved by moving one value at
a time, and few values are given to an integer program. Many values get a sweep over time first,
which is enough for most large graphs. `check_plan.py` judges a plan independently of all of this.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optc.backends.aot.exact_plan import exact_offsets
from optc.backends.aot.sweep_plan import sweep_offsets
from optc.backends.program import ALIGNMENT, align

MOVES = 400  # of a hill climb, each a best fit of all values
CLIMBED = 400  # values up to which a hill climb is worth its time
SWEPT = 1000  # values from which a sweep is tried before the orders
ORDERED = 2_000_000  # pairs of values alive together up to which orders are tried
SOLVED = 100  # pairs of values alive together up to which the integer program is


@dataclass(frozen=True, slots=True)
class Interval:
    """A value's bytes and the steps, first and last inclusive, between which it must keep them."""

    nbytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """An offset for each interval, the arena's bytes, the order that won, what no plan can beat."""

    offsets: tuple[int, ...]
    nbytes: int
    strategy: str
    lower_bound: int


def plan_memory(intervals: Sequence[Interval], alignment: int = ALIGNMENT) -> MemoryPlan:
    """Offsets for `intervals`, multiples of `alignment`.

    Values without bytes get offset 0. Raises ValueError for an interval that ends before it begins.
    Time grows with the pairs of values that are alive together, and beyond `ORDERED` of these as
    n log n.
    """
    if any(interval.last < interval.first or interval.nbytes < 0 for interval in intervals):
        raise ValueError("an interval ends before it begins, or has a negative size")
    live = _Live(intervals, alignment)
    bound = lower_bound(intervals, alignment)
    best = _Best(live, bound)
    if len(intervals) >= SWEPT or live.pairs > ORDERED:
        best.take("sweep", np.array(sweep_offsets(live.rows()), dtype=np.int64))
    if best.nbytes != bound and live.pairs <= ORDERED:
        best.try_orders()
    if len(intervals) <= CLIMBED:
        best.climb()
    if best.nbytes > bound and live.pairs <= SOLVED:
        best.take("exact", exact_offsets(live.rows(), alignment, bound, best.nbytes))
    return best.plan()


def lower_bound(intervals: Sequence[Interval], alignment: int = ALIGNMENT) -> int:
    """The bytes of the largest set of values that are alive at one step: no plan needs fewer."""
    events: dict[int, int] = {}
    for interval in intervals:
        events[interval.first] = events.get(interval.first, 0) + align(interval.nbytes, alignment)
        events[interval.last + 1] = events.get(interval.last + 1, 0) - align(
            interval.nbytes, alignment
        )
    largest = alive = 0
    for step in sorted(events):
        alive += events[step]
        largest = max(largest, alive)
    return largest


class _Best:
    """The best offsets so far, and the order they came from."""

    def __init__(self, live: _Live, bound: int) -> None:
        self.live, self.bound = live, bound
        self.offsets = np.zeros(len(live.sizes), dtype=np.int64)
        self.nbytes = -1
        self.strategy, self.order, self.ceiling = "", self.offsets, 0

    def plan(self) -> MemoryPlan:
        """What it is now."""
        return MemoryPlan(tuple(self.offsets.tolist()), self.nbytes, self.strategy, self.bound)

    def take(self, strategy: str, offsets: NDArray[np.int64] | None) -> bool:
        """Keep offsets that need fewer bytes."""
        if offsets is None:
            return False
        nbytes = int((offsets + self.live.sizes).max(initial=0))
        if 0 <= self.nbytes <= nbytes:
            return False
        self.offsets, self.nbytes, self.strategy = offsets, nbytes, strategy
        return True

    def try_orders(self) -> None:
        """All orders, with one end of the arena and with two, until one reaches the bound."""
        for ceiling in (0, self.bound):
            for name, order in _ORDERS.items():
                self.try_order(name, order(self.live), ceiling)
                if self.nbytes == self.bound:
                    return

    def try_order(self, name: str, order: NDArray[np.int64], ceiling: int) -> bool:
        """Best fit in this order; keep it if it is better."""
        better = self.take(
            name + (", two ends" if ceiling else ""), _best_fit(self.live, order, ceiling)
        )
        if better:
            self.order, self.ceiling = order, ceiling
        return better

    def climb(self) -> None:
        """Move the values at the top of the arena to earlier places in the order."""
        choose = random.Random(0)
        for _ in range(MOVES):
            if self.nbytes == self.bound:
                return
            tops = np.flatnonzero(self.offsets + self.live.sizes == self.nbytes)
            value = choose.choice(tops.tolist())
            rest = self.order[self.order != value]
            place = choose.randint(0, int(np.flatnonzero(self.order == value)[0]))
            name = self.strategy.partition(",")[0].removesuffix(" climbed") + " climbed"
            self.try_order(name, np.insert(rest, place, value), self.ceiling)


class _Live:
    """The intervals as arrays; sizes are rounded up to the alignment."""

    def __init__(self, intervals: Sequence[Interval], alignment: int) -> None:
        rows = [(align(i.nbytes, alignment), i.first, i.last) for i in intervals]
        table = np.array(rows, dtype=np.int64).reshape(-1, 3)
        self.sizes, self.first, self.last = table[:, 0], table[:, 1], table[:, 2]

    def rows(self) -> list[tuple[int, int, int]]:
        """Size, first and last step of each."""
        columns = (self.sizes.tolist(), self.first.tolist(), self.last.tolist())
        return list(zip(*columns, strict=True))

    @cached_property
    def later(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Indices by first step; and where in that order lie those that begin while each lives."""
        order = np.argsort(self.first, kind="stable")
        ends = np.searchsorted(self.first[order], self.last[order], side="right")
        return order, np.arange(1, len(order) + 1), ends

    @cached_property
    def pairs(self) -> int:
        """How many pairs are alive together."""
        _, starts, ends = self.later
        return int((ends - starts).sum())

    @cached_property
    def neighbours(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Who is alive together with whom: where each one's part of the list begins; the list."""
        order, starts, ends = self.later
        counts = ends - starts
        before = np.repeat(np.arange(len(order)), counts)
        behind = np.arange(self.pairs) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        one = np.concatenate((order[before], order[behind]))
        other = np.concatenate((order[behind], order[before]))
        begins = np.searchsorted(np.sort(one), np.arange(len(order) + 1))
        return begins, other[np.lexsort((other, one))]

    def near(self, index: int) -> NDArray[np.int64]:
        """The others that share a step with `index`, in order."""
        begins, others = self.neighbours
        return others[begins[index] : begins[index + 1]]


def _sorted_by(*keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices sorted by the first key, ties by the next; equal ones keep their order."""
    return np.lexsort(tuple(reversed(keys))).astype(np.int64)


def _by_size(live: _Live) -> NDArray[np.int64]:
    return _sorted_by(-live.sizes, live.first)


def _by_lifetime(live: _Live) -> NDArray[np.int64]:
    return _sorted_by(live.first - live.last, -live.sizes)


def _by_conflicts(live: _Live) -> NDArray[np.int64]:
    return _sorted_by(-np.diff(live.neighbours[0]), -live.sizes)


def _by_area(live: _Live) -> NDArray[np.int64]:
    return _sorted_by(-live.sizes * (live.last - live.first + 1), live.first)


def _by_time(live: _Live) -> NDArray[np.int64]:
    return _sorted_by(live.first, -live.sizes)


_ORDERS: dict[str, Callable[[_Live], NDArray[np.int64]]] = {
    "size": _by_size,
    "lifetime": _by_lifetime,
    "conflicts": _by_conflicts,
    "area": _by_area,
    "time": _by_time,
}


def _best_fit(live: _Live, order: NDArray[np.int64], ceiling: int) -> NDArray[np.int64]:
    """Places the intervals in `order`, each in the smallest gap that holds it.

    With a `ceiling`, values that begin at odd steps go to the upper end of their gap, of which the
    space up to the ceiling is the last: in a chain, neighbours then grow from opposite ends.
    """
    offsets = np.zeros(len(live.sizes), dtype=np.int64)
    placed = np.zeros(len(live.sizes), dtype=bool)
    for index in order:
        size = int(live.sizes[index])
        if size == 0:
            continue
        near = live.near(index)
        near = near[placed[near]]
        near = near[np.argsort(offsets[near], kind="stable")]
        begin, end = _smallest_gap(offsets[near], offsets[near] + live.sizes[near], size, ceiling)
        offsets[index] = end - size if ceiling and live.first[index] % 2 else begin
        placed[index] = True
    return offsets


def _smallest_gap(
    starts: NDArray[np.int64], ends: NDArray[np.int64], size: int, ceiling: int
) -> tuple[int, int]:
    """The smallest gap of at least `size`, or room for `size` behind all that is there."""
    # Placed values may overlap each other, so a gap begins where all before it have ended.
    reached = np.maximum.accumulate(np.concatenate(([0], ends)))
    until = np.concatenate((starts, [max(ceiling, int(reached[-1]))]))
    gaps = until - reached
    fitting = np.flatnonzero(gaps >= size)
    if not len(fitting):
        return int(reached[-1]), int(reached[-1]) + size
    best = fitting[np.argmin(gaps[fitting])]
    return int(reached[best]), int(until[best])
