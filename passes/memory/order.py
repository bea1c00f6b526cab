"""Orders of steps with a lower peak: exact while few states do, a beam beyond.

Steps done so far are a set, and the bytes alive after them depend on the set alone, so that orders
are paths through sets: the best path has the lowest maximum, found best first. A step that frees at
least what it takes and fits below the peak so far can be done at once: doing it earlier never makes
a later state larger, since what a step adds only shrinks as others are done. (Liu, "An Application
of Generalized Tree Pebbling to Sparse Matrix Factorization", 1987, has such a rule for trees; Ahn
et al., "Ordering Chaos: Memory-Aware Scheduling of Irregularly Wired Neural Networks", MLSys 2020,
the search over sets.)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from optc.passes.memory.footprint import Footprint

EXACT_STATES = 10_000
BEAM = 32
PATIENCE = 4  # how many times the states of the exact search a beam may look at
OVERRUN = 50_000  # states beyond a search's limit that its last round may look at


@dataclass(frozen=True, slots=True)
class Order:
    """Steps in order, their peak in bytes, and whether no other order has a lower one."""

    steps: tuple[int, ...]
    peak: int
    exact: bool


def best_order(steps: Footprint, states: int = EXACT_STATES, beam: int = BEAM) -> Order:
    """An order whose peak is the lowest that was found; that of the graph unless one is lower."""
    given = tuple(range(len(steps.nodes)))
    best = Order(given, steps.peak(given), exact=False)
    search = _Search(steps)
    found, complete = search.exact(best.peak, states)
    if complete:
        return found or Order(given, best.peak, exact=True)
    return search.beam(best.peak, beam, search.looked + PATIENCE * max(states, BEAM)) or best


@dataclass(frozen=True, slots=True)
class _State:
    """Steps done and ready as bits, the bytes alive, the peak on the way, and the way."""

    done: int
    ready: int
    live: int
    peak: int
    path: _Path | None


@dataclass(frozen=True, slots=True)
class _Path:
    """A linked list, the last step first: states share what they have in common."""

    step: int
    earlier: _Path | None


class _Search:
    def __init__(self, steps: Footprint) -> None:
        self.steps = steps
        self.looked = 0  # at states, forced ones included: what a search costs
        self.most = 0  # where a round of very many ready steps is broken off
        self.all = (1 << len(steps.nodes)) - 1
        self.after: list[list[int]] = [[] for _ in steps.nodes]
        for step, needed in enumerate(steps.before):
            for other in _members(needed):
                self.after[other].append(step)

    def exact(self, below: int, limit: int) -> tuple[Order | None, bool]:
        """The lowest peak if it is less than `below`; and whether the search was complete."""
        self.most = limit + OVERRUN
        start = self.start()
        queue = [(start.peak, 0, start)]
        best = {start.done: start.peak}
        count = 0
        while queue and self.looked <= limit:
            peak, _, state = heapq.heappop(queue)
            if state.done == self.all:
                return self.order(state, exact=True), True
            if best[state.done] < peak:
                continue
            for successor in self.successors(state, below):
                if successor.peak < best.get(successor.done, below):
                    best[successor.done] = successor.peak
                    count += 1
                    # Among equals the one with most done: the goal is reached sooner.
                    heapq.heappush(queue, (successor.peak, count, successor))
        return None, not queue and self.looked <= self.most

    def beam(self, below: int, width: int, limit: int) -> Order | None:
        """The best of what is left when only the `width` most promising sets go on.

        Nothing where `limit` states were not enough to reach an end.
        """
        self.most = limit + OVERRUN
        front = [self.start()]
        best: _State | None = None
        while front and self.looked <= limit:
            found: dict[int, _State] = {}
            for state in front:
                if state.done == self.all:
                    if best is None or state.peak < best.peak:
                        best, below = state, state.peak
                    continue
                for successor in self.successors(state, below):
                    known = found.get(successor.done)
                    if known is None or successor.peak < known.peak:
                        found[successor.done] = successor
            ranked = sorted(found.values(), key=lambda s: (s.peak, s.live, s.done))
            front = ranked[:width]
        return self.order(best, exact=False) if best else None

    def start(self) -> _State:
        """Nothing done but what costs nothing."""
        ready = sum(1 << step for step, needed in enumerate(self.steps.before) if not needed)
        return self.forced(_State(0, ready, 0, 0, None))

    def order(self, state: _State, *, exact: bool) -> Order:
        """The way to a state."""
        steps: list[int] = []
        path = state.path
        while path is not None:
            steps.append(path.step)
            path = path.earlier
        return Order(tuple(reversed(steps)), state.peak, exact)

    def successors(self, state: _State, below: int) -> Iterator[_State]:
        """States one step further with a peak under `below`, forced steps included."""
        for step in _members(state.ready):
            if self.looked > self.most:
                return
            following = self.done(state, step)
            if following.peak < below:
                yield self.forced(following)

    def forced(self, state: _State) -> _State:
        """Do the steps that cost nothing, until there is none."""
        while self.looked <= self.most:
            for step in _members(state.ready):
                following = self.done(state, step)
                if following.peak == state.peak and following.live <= state.live:
                    state = following
                    break
            else:
                break
        return state

    def done(self, state: _State, step: int) -> _State:
        self.looked += 1
        started = state.live + self.steps.started(step, state.done)
        live = started - self.steps.ended(step, state.done)
        after = state.done | 1 << step
        ready = state.ready & ~(1 << step)
        for other in self.after[step]:
            if not self.steps.before[other] & ~after:
                ready |= 1 << other
        path = _Path(step, state.path)
        return _State(after, ready, live, max(state.peak, started), path)


def _members(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
