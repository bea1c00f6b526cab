"""Quality as people read it: shares in percent, other metrics as they are, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from optc.passes.quality import Difference, Quality, Scale, Verdict
from optc.report.row import Row

if TYPE_CHECKING:
    from optc.quality.evidence import Measured

SHARES = ("accuracy", "top5", "f1", "agreement")


def quality_text(quality: Quality) -> tuple[str, str]:
    """A value and its interval: `92.10 %` and `91.50 to 92.60 %`; `32.16` and `31.2 to 33.1`."""
    low, high = quality.interval.low, quality.interval.high
    if quality.metric.split(" ")[0] in SHARES:
        return f"{100 * quality.value:.2f} %", f"{100 * low:.2f} to {100 * high:.2f} %"
    return f"{quality.value:.5g}", f"{low:.5g} to {high:.5g}"


def difference_text(difference: Difference) -> tuple[str, str]:
    """What is lost and its interval: `0.12 points` and `-0.05 to 0.29`."""
    unit = "points" if difference.after.scale is Scale.POINTS else "% of the original's"
    low, high = difference.interval.low, difference.interval.high
    return f"{100 * difference.drop:.2f} {unit}", f"{100 * low:.2f} to {100 * high:.2f}"


def quality_rows(measured: Measured) -> Iterator[Row]:
    """Lines of the closing table: the metric of both, what is lost, the verdict on the budget."""
    before, after = measured.difference.before, measured.difference.after
    yield Row(after.metric, *(f"{v} ({i})" for v, i in map(quality_text, (before, after))))
    value, interval = difference_text(measured.difference)
    yield Row("lost", "", f"{value} ({interval}), {after.samples} held-out samples")
    if measured.budget is not None and measured.verdict is not None:
        words = {Verdict.HELD: "holds", Verdict.BROKEN: "does not hold"}
        verdict = words.get(measured.verdict, measured.verdict.value)
        yield Row("accuracy budget", f"{100 * measured.budget:g} %", verdict)
