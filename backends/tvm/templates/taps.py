"""Which inputs a sliding window reads: one spatial axis of a convolution or a pool, as data.

Padding is never stored. Outputs whose window hangs over the border read fewer taps: along rows the
tap loop gets bounds that depend on the row; along columns the tiles at the borders are cases of
their own, in which the taps outside are known and left out.

A transposed convolution is the same thing in several phases: outputs phase, phase + stride, ... all
read the same taps, at distances of one input element (Shi et al. 2016, section 3, run backwards).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.templates.loops import as_index

Mask = tuple[tuple[bool, ...], ...]


@dataclass(frozen=True, slots=True)
class Phase:
    """Outputs first + j * step for 0 <= j < count, which read inputs j * move + offset + t * gap.

    Tap t of `taps` is kernel element kernel + t * stride; inputs are inside for 0 <= i < extent.
    """

    first: int
    step: int
    count: int
    move: int
    offset: int
    gap: int
    taps: int
    kernel: int
    stride: int
    extent: int

    def inside(self, j: int, tap: int) -> bool:
        """Whether output j reads an element, not padding, at the tap."""
        return 0 <= j * self.move + self.offset + tap * self.gap < self.extent

    @property
    def never_outside(self) -> bool:
        """Whether no output reads padding."""
        last = (self.count - 1) * self.move + self.offset + (self.taps - 1) * self.gap
        return self.offset >= 0 and last < self.extent

    def bounds(self, j: Expr) -> tuple[Expr, Expr]:
        """Taps low <= t < high of output j that are inside."""
        if self.never_outside:
            return as_index(0), as_index(self.taps)
        start = j * self.move + self.offset
        low = tirx.floordiv(self.gap - 1 - start, self.gap)
        high = tirx.floordiv(self.gap - 1 + self.extent - start, self.gap)
        return tirx.max(0, low), tirx.min(self.taps, high)

    def mask(self, j: int, outputs: int) -> Mask:
        """For each tap, which of the outputs j, j + 1, ... read an element."""
        return tuple(
            tuple(self.inside(j + i, tap) for i in range(outputs)) for tap in range(self.taps)
        )


@dataclass(frozen=True, slots=True)
class Run:
    """`repeat` tiles of `size` outputs from output `first` on, all with one mask."""

    first: int
    size: int
    repeat: int
    mask: Mask

    @property
    def whole(self) -> bool:
        """Whether every output reads every tap."""
        return all(map(all, self.mask))


def pieces(total: int, limit: int) -> list[int]:
    """`total` in as few pieces of at most `limit` as there can be, differing by one at most."""
    count = -(-total // limit)
    short, longer = divmod(total, count)
    return [short + 1] * longer + [short] * (count - longer)


def runs(phase: Phase, limit: int) -> list[Run]:
    """The outputs of a phase in tiles of at most `limit`, equal neighbours joined."""
    found: list[Run] = []
    at = 0
    for size in pieces(phase.count, limit):
        mask = phase.mask(at, size)
        last = found[-1] if found else None
        if last and last.size == size and last.mask == mask:
            found[-1] = Run(last.first, size, last.repeat + 1, mask)
        else:
            found.append(Run(at, size, 1, mask))
        at += size
    return found


def window(
    extent: int, outputs: int, kernel: int, stride: int, low: int, dilation: int
) -> tuple[Phase, ...]:
    """The one phase of a convolution or pool along an axis."""
    return (Phase(0, 1, outputs, stride, -low, dilation, kernel, 0, 1, extent),)


def transposed(
    extent: int, outputs: int, kernel: int, stride: int, low: int, dilation: int
) -> tuple[Phase, ...]:
    """Phases of a transposed convolution: output o reads (o + low - k * dilation) / stride."""
    found: list[Phase] = []
    period = stride // math.gcd(stride, dilation)
    gap = dilation * period // stride
    for first in range(min(stride, outputs)):
        fits = [k for k in range(kernel) if (first + low - k * dilation) % stride == 0]
        count = -(-(outputs - first) // stride)
        # Inputs ascend as the kernel descends.
        last = fits[-1] if fits else 0
        offset = (first + low - last * dilation) // stride
        found.append(
            Phase(first, stride, count, 1, offset, max(gap, 1), len(fits), last, -period, extent)
        )
    return tuple(found)


def axis_runs(phases: Sequence[Phase], limit: int) -> list[tuple[Phase, Run]]:
    """Tiles of all phases."""
    return [(phase, run) for phase in phases for run in runs(phase, limit)]


def stretches(inside: Sequence[int]) -> list[tuple[int, int]]:
    """(first, count) of the runs of neighbours."""
    found: list[tuple[int, int]] = []
    for item in inside:
        if found and sum(found[-1]) == item:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((item, 1))
    return found
