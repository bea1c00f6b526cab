"""Quality as the closing table and the report show it."""

from __future__ import annotations

import pytest

from optc.passes.quality import Better, Difference, Interval, Quality, Scale
from optc.quality.evidence import Measured
from optc.report.quality import quality_rows


def quality(metric: str, value: float, scale: Scale = Scale.POINTS) -> Quality:
    interval = Interval(0.9 * value, 1.1 * value, "by hand")
    return Quality(metric, value, interval, 500, Better.HIGHER, scale)


def measured(metric: str, low: float, high: float, scale: Scale = Scale.POINTS) -> Measured:
    lost = Interval(low, high, "by hand")
    pair = quality(metric, 0.8, scale), quality(metric, 0.79, scale)
    return Measured(Difference(*pair, 0.01, lost), 0.02, "labels", "the artifact")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0, 0.02, "holds"),
        (0.021, 0.03, "does not hold"),
        (0.0, 0.03, "cannot be told with so few samples"),
    ],
)
def test_the_budget_has_a_verdict(low: float, high: float, verdict: str) -> None:
    rows = list(quality_rows(measured("accuracy", low, high)))
    assert [row.label for row in rows] == ["accuracy", "lost", "accuracy budget"]
    assert rows[0].before == "80.00 % (72.00 to 88.00 %)"
    assert (
        rows[1].after == f"1.00 points ({100 * low:.2f} to {100 * high:.2f}), 500 held-out samples"
    )
    assert (rows[2].before, rows[2].after) == ("2 %", verdict)


def test_what_is_no_share_is_no_percentage() -> None:
    rows = list(quality_rows(measured("perplexity", 0.0, 0.01, Scale.RELATIVE)))
    assert rows[0].after == "0.79 (0.711 to 0.869)"
    assert "% of the original's" in rows[1].after
