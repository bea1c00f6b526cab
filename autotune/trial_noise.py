"""What a call takes, from times that were taken on a machine that does other things as well.

Disturbances only ever make a call slower, and they come in stretches: another program runs, the
clock drops. The minimum over rounds would be right on a quiet machine, but it rewards luck: a
candidate that is measured more often, or whose one call fell into a moment of higher clock, wins.
So candidates take turns, and a *round* is judged: how much slower than their own best were the
candidates in it, in the median? Only the quieter half of the rounds counts, the same rounds for
all candidates, and of these the median of each. A stretch of noise may fill up to half of the
rounds without a trace, and a single hiccup within a quiet round is outvoted.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

WARM_UP = (
    1  # rounds: caches, page tables and branch predictors of the first are not those of the rest
)


def seconds_of(times: Sequence[Sequence[float]]) -> list[float | None]:
    """One number for each candidate; None for one that was never timed.

    `times[i][r]` is candidate `i` in round `r`, counted from the first. A candidate may have fewer
    rounds than others; where none of them is among the quiet ones, its own faster half counts.
    """
    warm = [row[WARM_UP:] if len(row) > WARM_UP else row for row in times]
    quiet = _quiet_rounds(warm)
    return [_middle(row, quiet) if row else None for row in warm]


def _quiet_rounds(times: Sequence[Sequence[float]]) -> frozenset[int]:
    """The half of the rounds in which the candidates were least slowed down, rounded up."""
    rows = [(row, min(row)) for row in times if row and min(row) > 0]
    longest = max((len(row) for row, _ in rows), default=0)
    rows = [(row, best) for row, best in rows if len(row) == longest]
    slowness = [median(row[r] / best for row, best in rows) for r in range(longest)]
    order = sorted(range(longest), key=slowness.__getitem__)
    return frozenset(order[: -(-longest // 2)])


def _middle(row: Sequence[float], quiet: frozenset[int]) -> float:
    kept = [time for r, time in enumerate(row) if r in quiet]
    return median(kept or sorted(row)[: -(-len(row) // 2)])
