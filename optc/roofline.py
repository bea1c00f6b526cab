"""What a machine can do at most, and the least time that leaves a kernel.

The roofline (Williams et al. 2009) with three more walls: operations by dtype, caches by size,
and what waking threads costs. `limits.py` has the numbers of this machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from optc.ir.dtype import DType

# Going round bytes again and again, up to this part of a cache's size all of them stay in it. How
# much of more stays is told by the speed of reading more: where lines are replaced in turn, none.
FITS = 0.5
CROWDED = (0.75, 1.0, 1.125, 1.25, 1.5, 2.0)  # sizes at which it is measured, in units of the cache


class Bound(Enum):
    """What the least time of a kernel comes from."""

    UNKNOWN = ""
    COMPUTE = "compute"
    CACHE = "cache"
    MEMORY = "memory"
    FORK_JOIN = "fork-join"


@dataclass(frozen=True, slots=True)
class Work:
    """What a kernel computes and moves: operations in a dtype, and bytes; `weights` are read."""

    flops: int
    read: int
    written: int = 0
    weights: int = 0
    dtype: DType = DType.F32


@dataclass(frozen=True, slots=True)
class Least:
    """The least seconds for some work, and what they come from."""

    seconds: float
    bound: Bound


@dataclass(frozen=True, slots=True)
class Level:
    """A level of memory: how many bytes fit, and how many per second all threads together move.

    `bandwidth` is for reading; `write` and `copy` (read and written bytes together) are the same
    where they are 0. `crowded` are the speeds of reading more than fits, as much as `CROWDED` says.
    """

    name: str
    size: int
    bandwidth: float
    write: float = 0.0
    copy: float = 0.0
    crowded: tuple[float, ...] = ()

    def holds(self, asked: float, behind: Level, part: int = 1) -> float:
        """How many of the bytes that are gone round are found in one `part`-th of it.

        The others come from the level `behind`. Without `crowded`, as many are found as fit.
        """
        size = self.size // part
        near, far = 1 / self.bandwidth, 1 / behind.bandwidth
        if not self.crowded or near >= far:
            return min(asked, size)
        # More never keeps more: a speed below one that follows it was disturbed.
        speeds = [max(self.crowded[place:]) for place in range(len(CROWDED))]
        kept = [min(1.0, max(0.0, (far - 1 / speed) / (far - near))) for speed in speeds]
        crowd = min(asked / size, CROWDED[-1])
        return crowd * size * float(np.interp(crowd, (FITS, *CROWDED), (1.0, *kept)))

    def seconds(self, read: float, written: float) -> float:
        """The least time to read and write so much: each by itself, and both at the copy's pace."""
        write, copy = self.write or self.bandwidth, self.copy or self.bandwidth
        return max(read / self.bandwidth, written / write, 2 * min(read, written) / copy)


@dataclass(frozen=True, slots=True)
class Limits:
    """Operations per second and memory levels of `threads` threads together.

    `flops` are f32's; `peaks` those of other dtypes by name, where the CPU has instructions for
    them. `fork_join` is what a parallel kernel takes beyond its work, in seconds.
    """

    threads: int
    flops: float
    levels: tuple[Level, ...]
    peaks: Mapping[str, float] = field(default_factory=dict)
    fork_join: float = 0.0

    def peak(self, dtype: DType) -> float:
        """Operations per second in a dtype; without instructions for it, they are done in f32."""
        name = "i8" if dtype.bits <= 8 and dtype.is_integer else dtype.value
        return self.peaks.get(name, self.flops)

    def least(self, work: Work, all_weights: int = 0) -> Least:
        """The least time for some work, on all threads or on one.

        `all_weights` are the bytes of weights that a whole run goes through: of those that no cache
        holds until the next run, a kernel must read its part from memory.
        """
        if not self.known:
            return Least(0.0, Bound.UNKNOWN)
        shared = self._roofline(work, all_weights, 1)
        if self.threads == 1:
            return shared
        alone = self._roofline(work, all_weights, self.threads)
        forked = self.fork_join + shared.seconds
        best = alone if alone.seconds <= forked else Least(forked, shared.bound)
        if 0 < shared.seconds < self.fork_join:  # waking threads costs more than they save
            return Least(best.seconds, Bound.FORK_JOIN)
        return best

    def _roofline(self, work: Work, all_weights: int, part: int) -> Least:
        """With one of `part` threads: caches that threads share give one alone all they have."""
        walls = {Bound.COMPUTE: part * work.flops / self.peak(work.dtype)}
        near, far = self._moving(work.read, work.written, part)
        walls[Bound.MEMORY if far > near else Bound.CACHE] = near + far
        if all_weights and len(self.levels) > 1:
            kept = min(1.0, self.levels[-2].size / all_weights)
            fetched = (1 - kept) * work.weights / self.levels[-1].bandwidth
            walls[Bound.MEMORY] = max(fetched, walls.get(Bound.MEMORY, 0.0))
        bound = max(walls, key=lambda wall: walls[wall])
        return Least(walls[bound], bound if walls[bound] else Bound.UNKNOWN)

    def _moving(self, read: int, written: int, part: int) -> tuple[float, float]:
        """Seconds in caches and in memory when what was touched last is still where it fits."""
        near = far = 0.0
        left = total = float(max(1, read + written))
        for level, behind in zip(self.levels, (*self.levels[1:], None), strict=True):
            own = part if level.name in ("l1", "l2") else 1
            held = level.holds(left, behind, own) if behind else left
            share = held / total
            seconds = own * level.seconds(share * read, share * written)
            near, far = (near + seconds, far) if behind else (near, far + seconds)
            left -= held
        return near, far

    def better(self, other: Limits) -> Limits:
        """The better of two measurements of the same machine, number by number."""
        peaks = {
            name: max(self.peaks.get(name, 0.0), other.peaks.get(name, 0.0))
            for name in {**self.peaks, **other.peaks}
        }
        levels = tuple(map(_faster, self.levels, other.levels))
        flops, fork_join = max(self.flops, other.flops), min(self.fork_join, other.fork_join)
        return Limits(self.threads, flops, levels, peaks, fork_join)

    @staticmethod
    def unknown(threads: int) -> Limits:
        """Of a machine that was not measured: every kernel could take no time at all."""
        return Limits(threads, math.inf, (Level("memory", 1 << 62, math.inf),))

    @property
    def known(self) -> bool:
        """Whether they say anything."""
        return math.isfinite(self.flops)


def _faster(one: Level, other: Level) -> Level:
    return replace(
        one,
        bandwidth=max(one.bandwidth, other.bandwidth),
        write=max(one.write, other.write),
        copy=max(one.copy, other.copy),
        crowded=tuple(map(max, one.crowded, other.crowded)),
    )
