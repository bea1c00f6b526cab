"""Offsets in one sweep over time: a free list, best fit. n log n, for any number of values."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence


def sweep_offsets(rows: Sequence[tuple[int, int, int]]) -> list[int]:
    """Offsets for (size, first, last), each given when its value begins, the largest first.

    Where all sizes are equal no plan needs less; else it may fall behind orders that see ahead.
    """
    offsets = [0] * len(rows)
    free = _Free()
    living: list[tuple[int, int]] = []  # last step, index
    for index in sorted(range(len(rows)), key=lambda i: (rows[i][1], -rows[i][0])):
        size, first, last = rows[index]
        if size == 0:
            continue
        while living and living[0][0] < first:
            _, dead = heapq.heappop(living)
            free.give(offsets[dead], rows[dead][0])
        offsets[index] = free.take(size)
        heapq.heappush(living, (last, index))
    return offsets


class _Free:
    """Gaps below `end`, no two of which touch."""

    def __init__(self) -> None:
        self.end = 0
        self.gaps: list[tuple[int, int]] = []  # size and start, sorted
        self.size_at: dict[int, int] = {}  # by start
        self.start_of: dict[int, int] = {}  # by end

    def take(self, size: int) -> int:
        """The start of the smallest gap that holds `size`, or of what is added at the end."""
        place = bisect_left(self.gaps, (size, 0))
        if place < len(self.gaps):
            have, start = self.gaps[place]
            self._remove(start)
            if have > size:
                self._add(start + size, have - size)
            return start
        start = self.end
        if start in self.start_of:  # a gap at the end is used up first
            start = self.start_of[start]
            self._remove(start)
        self.end = start + size
        return start

    def give(self, start: int, size: int) -> None:
        """Make a gap, one with those that it touches."""
        end = start + size
        if end in self.size_at:
            end += self._remove(end)
        if start in self.start_of:
            start = self.start_of[start]
            self._remove(start)
        self._add(start, end - start)

    def _add(self, start: int, size: int) -> None:
        insort(self.gaps, (size, start))
        self.size_at[start] = size
        self.start_of[start + size] = start

    def _remove(self, start: int) -> int:
        size = self.size_at.pop(start)
        del self.start_of[start + size]
        del self.gaps[bisect_left(self.gaps, (size, start))]
        return size
