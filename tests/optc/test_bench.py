"""Percentiles, kernel rows and advice, from numbers made up here; nothing is timed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optc.bench import KernelRow, Percentiles, Report, kernel_rows
from optc.roofline import Bound, Least, Level, Limits, Work
from optc.runtime import KernelTime

LIMITS = Limits(2, 1e9, (Level("dram", 1 << 30, 1e9),))


def report(kernels: tuple[KernelRow, ...], outside: float = 0.0, **whole: float) -> Report:
    times = {"p50": 1e-3, "p90": 1e-3, "p99": 1e-3, "least": 1e-3, "mean": 1e-3, **whole}
    return Report("m", 2, Percentiles(**times, runs=100), kernels, LIMITS, outside, 0.0, 0)


def row(seconds: float, share: float, limit: float) -> KernelRow:
    least = Least(limit, Bound.COMPUTE)
    return KernelRow("linear 4x4xf32 @ m.py:1", "k", seconds, share, Work(100, 100), least)


def test_percentiles_are_in_seconds() -> None:
    whole = Percentiles.of(np.arange(1, 101, dtype=np.uint64) * 1_000_000)
    assert whole.least == pytest.approx(0.001)
    assert whole.p50 == pytest.approx(0.0505)
    assert whole.mean == pytest.approx(0.0505)
    assert whole.p99 == pytest.approx(0.09901)
    assert whole.runs == 100


def test_rows_share_the_time_of_kernels_that_ran() -> None:
    calls = [
        KernelTime("a", "ka", "main", 3000, 0, 10, 90_000, 3000),
        KernelTime("b", "kb", "main", 0, 1000, 10, 80_000, 1000),
        KernelTime("never", "kc", "main", 5, 5, 0, 0, 0),
    ]
    first, second = kernel_rows(calls, LIMITS)
    assert (first.label, second.label) == ("a", "b")
    assert first.seconds == pytest.approx(3e-6)
    assert (first.share, second.share) == (pytest.approx(0.75), pytest.approx(0.25))
    assert first.of_limit == pytest.approx(1.0)
    assert second.speed == "1.0 GB/s"


def test_a_good_run_gets_no_advice() -> None:
    assert report((row(0.9e-3, 1.0, 0.8e-3),)).advice == ()


def test_a_slow_heavy_kernel_is_named_with_its_gain() -> None:
    (line,) = report((row(0.5e-3, 0.5, 0.1e-3), row(0.5e-3, 0.5, 0.4e-3))).advice
    assert line.startswith("linear 4x4xf32 takes 50% of the time at 20% of the machine's limit")
    assert "40% shorter" in line


def test_disturbed_runs_are_called_so() -> None:
    (line,) = report((row(0.9e-3, 1.0, 0.8e-3),), p99=3e-3).advice
    assert "3.0 times p50" in line


def test_time_outside_kernels_is_shown() -> None:
    (line,) = report((row(0.5e-3, 1.0, 0.4e-3),), outside=0.5e-3).advice
    assert line.startswith("50% of a run is outside kernels")


def test_tiny_kernels_want_one_thread() -> None:
    small = replace(report((row(3e-6, 1.0, 3e-6),), p50=4e-6, p99=4e-6, least=4e-6))
    assert any("--threads 1" in line for line in small.advice)


def test_a_limit_measured_again_only_grows() -> None:
    other = Limits(2, 5e8, (Level("dram", 1 << 30, 3e9),))
    assert LIMITS.better(other) == Limits(2, 1e9, (Level("dram", 1 << 30, 3e9),))
    kernel = KernelRow("k", "k", 1e-6, 1.0, Work(0, 3000), Least(3e-6, Bound.MEMORY))
    assert report((kernel,)).against(LIMITS.better(other)).kernels[0].of_limit == pytest.approx(1.0)
