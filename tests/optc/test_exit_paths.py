"""What ways through a model take together: between the shortest and the longest, come what may."""

from __future__ import annotations

import numpy as np
import pytest

from optc.bench import Percentiles
from optc.exits import Path, Paths


def test_what_disturbs_the_machine_is_not_expected_of_a_call() -> None:
    """One run in fifty took 200 times as long: no way does, most of the time."""
    short, long = (np.full(50, ns, np.uint64) for ns in (4_000, 20_000))
    short[7] = 800_000
    ways = (Path("exit_0", Percentiles.of(short), 0.75), Path("end", Percentiles.of(long), 0.25))
    paths = Paths(ways, 100, (short, long))
    assert paths.worst.name == "end"
    assert paths.expected == pytest.approx(0.75 * 4e-6 + 0.25 * 20e-6)
    assert paths.expected < paths.worst.times.p50
    assert paths.p99 == pytest.approx(800e-6)  # what is rare is told here
