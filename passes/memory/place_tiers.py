"""XLA's memory space assignment: buffers by their benefit, each use in the fast tier if it can.

The policy of OpenXLA's memory_space_assignment (its 2020 form, with the later division by the root
of the size), written anew from its description. Buffers are taken by what it saves to have them in
the fast tier; the uses of one, in order: stay where it is (NoCopy), else write it back (Evict),
else fetch it in time (Prefetch), else read it from the slow tier. A copy may last at most
`MAX_RATIO` times what it needs, so that it does not hold its place for long, and gets at least
`MIN_RATIO` times that, so that steps do not wait. A buffer whose eviction finds no place stays out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import sqrt

from optc.passes.memory.tiers import Residence, TierCopy, TierPlan, simulate
from optc.passes.memory.traffic import Buffer, Machine, Schedule

MIN_RATIO, MAX_RATIO = 0.8, 10.0  # of a copy's seconds
OUTSTANDING = 8  # copies under way at once
ALIGNMENT = 64


def place_greedily(schedule: Schedule, machine: Machine) -> TierPlan:
    """A plan for the fast tier's size; the empty one where the simulator finds it no slower."""
    plan = _Greedy(schedule, machine).plan()
    empty = TierPlan()
    faster = simulate(schedule, machine, plan).makespan
    return plan if faster < simulate(schedule, machine, empty).makespan else empty


@dataclass
class _Pending:
    """What one buffer wants, before all of its uses are settled."""

    number: int
    buffer: Buffer
    residences: list[Residence] = field(default_factory=list)
    copies: list[TierCopy] = field(default_factory=list)
    fast: list[int] = field(default_factory=list)  # steps


class _Greedy:
    def __init__(self, schedule: Schedule, machine: Machine) -> None:
        self.schedule, self.machine = schedule, machine
        nothing: frozenset[int] = frozenset()
        steps = range(len(schedule.flops))
        self.slow = [schedule.seconds(machine, step, nothing) for step in steps]
        self.begin = [0.0, *accumulate(self.slow)]  # of each step, and the end
        self.residences: list[Residence] = []
        self.copies: list[TierCopy] = []
        self.fast: set[tuple[int, int]] = set()

    def plan(self) -> TierPlan:
        """Take the buffers by falling benefit."""
        order = sorted(
            (number for number, b in enumerate(self.schedule.buffers) if b.moved and not b.fixed),
            key=lambda number: (-self.benefit(number), -self.weight(number), number),
        )
        for number in order:
            if self.benefit(number) > 0:
                self.settle(number, self.schedule.buffers[number])
        copies = tuple(sorted(self.copies, key=lambda c: (c.start, c.done, c.buffer)))
        return TierPlan(tuple(self.residences), copies, frozenset(self.fast))

    def benefit(self, number: int) -> float:
        """Seconds saved over all uses, by the root of the size."""
        buffer = self.schedule.buffers[number]
        alone = frozenset((number,))
        saved = 0.0
        for step in buffer.moved:
            gain = self.slow[step] - self.schedule.seconds(self.machine, step, alone)
            saved = saved + gain if saved > 0 and gain > 0 else max(saved, gain)
        return saved / sqrt(buffer.nbytes) if buffer.nbytes else 0.0

    def weight(self, number: int) -> int:
        """Bytes times steps: of equals the larger goes first."""
        buffer = self.schedule.buffers[number]
        return buffer.nbytes * (buffer.uses[-1] - buffer.uses[0] + 1)

    def settle(self, number: int, buffer: Buffer) -> None:
        """Find a way for every use; all of them are kept, or none where an eviction fails."""
        want = _Pending(number, buffer)
        in_slow = buffer.made is None
        previous: int | None = None
        for position, use in enumerate(buffer.uses):
            if self.stays(want, previous, buffer.uses[position:]):
                want.fast.append(use)
            else:
                if previous is not None and not in_slow:
                    if not self.evict(want, previous):
                        return
                    in_slow = True
                if self.prefetch(want, previous, use):
                    want.fast.append(use)
            in_slow = in_slow or (use == buffer.made and use not in want.fast)
            previous = use
        self.residences += want.residences
        self.copies += want.copies
        self.fast |= {(number, step) for step in want.fast}

    def stays(self, want: _Pending, previous: int | None, uses: Sequence[int]) -> bool:
        """NoCopy: written in the fast tier, or still there; for the longest run of uses."""
        use = uses[0]
        if previous is None:
            return use == want.buffer.made and self.reside(want, use, use, uses)
        if not want.residences or previous not in want.fast:
            return False
        here = want.residences[-1]
        if here.last >= use:
            return True
        return here.last == previous and self.reside(want, here.first, previous, uses, here)

    def reside(
        self,
        want: _Pending,
        first: int,
        previous: int,
        uses: Sequence[int],
        here: Residence | None = None,
    ) -> bool:
        """Hold a place from step `first` to the last of the uses that can be; `here` grows."""
        for last in reversed(uses):
            if not self.short_enough(want.buffer, previous, uses, last):
                continue
            offset = self.room(want, first, last, here.offset if here else None)
            if offset is not None:
                if here is not None:
                    want.residences.pop()
                want.residences.append(Residence(want.number, offset, first, last))
                return True
        return False

    def short_enough(self, buffer: Buffer, first: int, uses: Sequence[int], last: int) -> bool:
        """Whether no gap between uses is so long that a copy would be better."""
        most = MAX_RATIO * self.machine.copy_seconds(buffer.nbytes)
        steps = [first, *(use for use in uses if use <= last)]
        return all(self.elapsed(a + 1, b) < most for a, b in pairwise(steps))

    def elapsed(self, first: int, last: int) -> float:
        """Seconds from the beginning of a step to the beginning of another."""
        return self.begin[last] - self.begin[first] if last > first else 0.0

    def evict(self, want: _Pending, previous: int) -> bool:
        """Write the buffer back behind its last use; False where its place cannot be held."""
        here = want.residences[-1]
        needed = self.machine.copy_seconds(want.buffer.nbytes)
        start = previous + 1
        steps = range(start + 1, len(self.slow) + 1)
        good = next((s for s in steps if self.elapsed(start, s) >= MIN_RATIO * needed), start)
        for done in range(good, start, -1):
            kept = self.room(want, here.first, done - 1, here.offset)
            if kept == here.offset and self.channel(start, done, want):
                want.residences[-1] = replace(here, last=max(here.last, done - 1))
                want.copies.append(TierCopy(want.number, start, done, to_fast=False))
                return True
        return False

    def prefetch(self, want: _Pending, previous: int | None, use: int) -> bool:
        """Fetch the buffer for a use: the earliest start in the allowed time that has room."""
        if use == want.buffer.made:
            return False
        needed = self.machine.copy_seconds(want.buffer.nbytes)
        behind = [0 if previous is None else previous + 1, *(copy.done for copy in want.copies)]
        for start in range(max(behind), use):
            gap = self.elapsed(start, use)
            if gap > MAX_RATIO * needed:
                continue
            if gap < MIN_RATIO * needed:
                return False
            offset = self.room(want, start, use)
            if offset is not None and self.channel(start, use, want):
                want.residences.append(Residence(want.number, offset, start, use))
                want.copies.append(TierCopy(want.number, start, use, to_fast=True))
                return True
        return False

    def channel(self, start: int, done: int, want: _Pending) -> bool:
        """Whether the channel takes one more copy: not too many at once, first come first done."""
        copies = [*self.copies, *want.copies]
        under_way = sum(copy.start < done and start < copy.done for copy in copies)
        in_turn = all(
            (copy.start <= start and copy.done <= done)
            or (copy.start >= start and copy.done >= done)
            for copy in copies
        )
        return under_way < OUTSTANDING and in_turn

    def room(self, want: _Pending, first: int, last: int, offset: int | None = None) -> int | None:
        """The offset of the smallest gap that is free from `first` to `last`; `offset` if given.

        With an offset, the last residence is about to grow and is not in its own way.
        """
        nbytes = want.buffer.nbytes
        own = want.residences[-1] if offset is not None else None
        sizes = self.schedule.buffers
        taken = sorted(
            (r.offset, r.offset + sizes[r.buffer].nbytes)
            for r in (*self.residences, *want.residences)
            if r is not own and r.first <= last and first <= r.last
        )
        gaps = list(_gaps(taken, self.machine.fast.size))
        if offset is not None:
            fits = any(a <= offset and offset + nbytes <= b for a, b in gaps)
            return offset if fits else None
        fitting = [(b - a, a) for a, b in gaps if b - a >= nbytes]
        return min(fitting)[1] if fitting else None


def _gaps(taken: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    reached = 0
    for begin, end in taken:
        if begin > reached:
            yield reached, begin
        reached = max(reached, -(-end // ALIGNMENT) * ALIGNMENT)
    if size > reached:
        yield reached, size
