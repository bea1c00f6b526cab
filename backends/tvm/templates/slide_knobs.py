"""What a window that stays within its channel may choose, and what it reads in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from optc.backends.tvm.templates.taps import Mask, Phase, axis_runs

WRITTEN_OUT = 2_500  # multiply-adds of code: more kinds of rows than fit share loops


class Share(Enum):
    """What threads share out."""

    ROWS = "rows"
    CHANNELS = "channels"


@dataclass(frozen=True, slots=True)
class SlideKnobs:
    """Register tile: `rows` x `columns` positions of one vector of channels.

    `block` vectors are swept over all tiles of a strip before the next ones: what tiles share is
    then in the first-level cache.
    """

    rows: int
    columns: int
    block: int
    share: Share


@dataclass(frozen=True, slots=True)
class Band:
    """`repeat` stretches of `size` output rows from row `first` of the phase on.

    `mask` says which rows read which taps; without one, rows are done one by one, with bounds.
    """

    phase: Phase
    first: int
    size: int
    repeat: int
    mask: Mask | None


def bands(phases: Sequence[Phase], rows: int, most: int) -> tuple[Band, ...]:
    """An axis in stretches of at most `rows`; if there are more than `most` kinds, borders loop."""
    found = axis_runs(phases, rows)
    if len(found) <= most:
        return tuple(Band(p, run.first, run.size, run.repeat, run.mask) for p, run in found)
    if rows == 1:
        return tuple(Band(phase, 0, 1, phase.count, None) for phase in phases if phase.count)
    return tuple(
        Band(p, run.first, run.size, run.repeat, run.mask if run.whole else None)
        for p, run in found
    )
