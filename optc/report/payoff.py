"""What each lossy pass changed and whether it paid, as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optc.observers import PassRecord
from optc.passes.quality import Scale
from optc.payoff import Payoff, Verdict
from optc.report.numbers import count_text, seconds_text
from optc.turns import Pair

if TYPE_CHECKING:
    from optc.measured_passes import Timings

HEADS = ("pass", "parameters", "multiply-adds", "latency", "lost", "did it pay?")


@dataclass(frozen=True, slots=True)
class PayoffRow:
    """One pass, cell by cell as `HEADS` says."""

    name: str
    parameters: str
    macs: str
    latency: str
    lost: str
    verdict: str

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of `HEADS`."""
        return (self.name, self.parameters, self.macs, self.latency, self.lost, self.verdict)


def payoffs_of(records: Sequence[PassRecord]) -> tuple[Payoff, ...]:
    """Those of the lossy passes that changed something."""
    return tuple(record.payoff for record in records if record.payoff is not None)


def payoff_rows(records: Sequence[PassRecord]) -> Iterator[PayoffRow]:
    """A row a pass; what one pass lost is what it lost beyond those before it."""
    for item in payoffs_of(records):
        before, after = item.before, item.after
        yield PayoffRow(
            item.name,
            _change(before.parameters, after.parameters),
            _change(before.macs, after.macs),
            _latency(item),
            _lost(item),
            item.verdict.value,
        )


def payoff_words(records: Sequence[PassRecord], timings: Timings | None = None) -> str:
    """What did not pay, by name, and what knowing it took; empty when no lossy pass ran.

    And why latency is modelled, where it was to be measured.
    """
    payoffs = payoffs_of(records)
    if not payoffs:
        return ""
    idle = [item.name for item in payoffs if item.verdict is Verdict.NOTHING]
    words = f"did not pay: {', '.join(idle)}" if idle else "every lossy pass paid"
    judged = f"{words} (judged in {seconds_text(sum(item.judging for item in payoffs))})"
    return f"{judged}\n{how_timed(timings)}" if timings is not None else judged


def how_timed(timings: Timings) -> str:
    """How latency was measured, or why it was not."""
    if timings.whole is None:
        return f"latency is modelled, nothing was timed: {timings.reason}"
    plural = "s" if timings.threads > 1 else ""
    return (
        f"latency is measured side by side: medians, and ratios with their quartiles, of "
        f"{timings.turns} turns of {timings.calls} calls, {timings.threads} thread{plural}"
    )


def _latency(item: Payoff) -> str:
    if item.measured is None:
        average = " on average" if item.expected is not None else ""
        return f"{item.latency:.2f} times{average}, modelled"
    return f"{seconds_text(item.measured.after.p50)}, {ratio_text(item.measured)}, measured"


def ratio_text(pair: Pair) -> str:
    """`0.62 times (0.61 to 0.64)`."""
    return f"{pair.ratio:.2f} times ({pair.low:.2f} to {pair.high:.2f})"


def _change(before: int, after: int) -> str:
    if before == after:
        return "="
    if not before:
        return count_text(after)
    share = 100 * after / before - 100
    digits = ".0f" if abs(share) >= 1 else ".1g"  # no change of 0 %
    return f"{count_text(after)} ({share:+{digits}} %)"


def _lost(item: Payoff) -> str:
    if item.drop is None or item.after.lost is None:
        return "no data"
    points = item.after.lost.after.scale is Scale.POINTS
    return f"{100 * item.drop:+.2f} {'points' if points else '% of the original'}"
