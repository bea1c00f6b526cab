"""Times an artifact: percentiles of whole runs, and every kernel against the machine's limit.

Whole runs are timed in C without a clock around kernels; the table comes from further runs with
one. What is spent between kernels is measured in those same runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.dtype import DType
from optc.roofline import Bound, Least, Limits, Work
from optc.runtime import Artifact, KernelTime

SPREAD = 1.5  # p99 over p50 from which a run counts as disturbed
FAR = 0.5  # share of the limit below which a kernel is worth a word
HEAVY = 0.10  # share of the time from which it is


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds of whole runs."""

    p50: float
    p90: float
    p99: float
    least: float
    mean: float
    runs: int

    @staticmethod
    def of(nanoseconds: NDArray[np.uint64]) -> Percentiles:
        """From the time of each run."""
        seconds = nanoseconds.astype(np.float64) * 1e-9
        p50, p90, p99 = np.percentile(seconds, (50, 90, 99))
        return Percentiles(
            float(p50),
            float(p90),
            float(p99),
            float(seconds.min()),
            float(seconds.mean()),
            len(seconds),
        )


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One kernel call: its fastest run in seconds, its share of all kernels, its least time."""

    label: str
    kernel: str
    seconds: float
    share: float
    work: Work
    least: Least

    @property
    def limit(self) -> float:
        """The least seconds this machine could need."""
        return self.least.seconds

    @property
    def of_limit(self) -> float:
        """Share of the machine's limit, 0 to about 1; 0 when nothing is computed or moved."""
        return self.limit / self.seconds if self.seconds else 0.0

    @property
    def speed(self) -> str:
        """GFLOP/s (GOP/s of integers) of what is bound by computing, GB/s of everything else."""
        if not self.seconds:
            return ""
        if self.least.bound is Bound.COMPUTE:
            unit = "GOP/s" if self.work.dtype.is_integer else "GFLOP/s"
            return f"{self.work.flops / self.seconds * 1e-9:.1f} {unit}"
        return f"{self.bytes / self.seconds * 1e-9:.1f} GB/s"

    @property
    def bytes(self) -> int:
        """Bytes moved either way."""
        return self.work.read + self.work.written

    @property
    def wall(self) -> str:
        """What the least time comes from, with the dtype where that is not f32."""
        narrow = self.least.bound is Bound.COMPUTE and self.work.dtype is not DType.F32
        return f"{self.least.bound.value} {self.work.dtype}" if narrow else self.least.bound.value


@dataclass(frozen=True, slots=True)
class Report:
    """What `optc bench` says."""

    name: str
    threads: int
    whole: Percentiles
    kernels: tuple[KernelRow, ...]
    limits: Limits
    outside_seconds: float  # of a run, in the runs whose kernels were timed: driver, waking threads
    load_seconds: float
    peak_bytes: int
    weights_bytes: int = 0  # that a run goes through
    ways: Mapping[str, int] = field(default_factory=dict)  # of the timed runs, by exit

    def against(self, limits: Limits) -> Report:
        """The same times against other limits."""
        rows = tuple(
            replace(row, least=limits.least(row.work, self.weights_bytes)) for row in self.kernels
        )
        return replace(self, kernels=rows, limits=limits)

    @property
    def kernel_seconds(self) -> float:
        """Sum over all kernel calls of one run, each at its fastest."""
        return sum(row.seconds for row in self.kernels)

    @property
    def limit_seconds(self) -> float:
        """The least time for all kernels on this machine."""
        return sum(row.limit for row in self.kernels)

    @property
    def advice(self) -> tuple[str, ...]:
        """What would help, from what was measured; nothing when nothing stands out."""
        return tuple(_advice(self))


def bench(
    artifact: Artifact,
    inputs: Mapping[str, NDArray[Any]],
    limits: Limits,
    *,
    threads: int,
    runs: int = 100,
    warmup: int = 10,
    load_seconds: float = 0.0,
) -> Report:
    """Run `warmup` times, `runs` times for the percentiles, then with a clock at every kernel."""
    if warmup:
        artifact.bench(**inputs, runs=warmup)
    before = artifact.exit_runs()
    whole = Percentiles.of(artifact.bench(**inputs, runs=runs))
    ways = {name: count - before[name] for name, count in artifact.exit_runs().items()}
    ways = {**ways, "end": runs - sum(ways.values())} if ways else {}
    clocked = max(3, min(runs, 50))
    start = time.perf_counter()
    profile = artifact.profile(**inputs, runs=clocked)
    elapsed = time.perf_counter() - start
    outside = max(0.0, elapsed - sum(k.total_ns for k in profile.kernels) * 1e-9) / clocked
    weights = int(artifact.manifest["weights_bytes"])
    rows = kernel_rows(profile.kernels, limits, weights)
    peak = int(artifact.manifest["peak_bytes"])
    report = Report(
        artifact.name, threads, whole, rows, limits, outside, load_seconds, peak, weights
    )
    return replace(report, ways=ways)


def kernel_rows(
    kernels: Sequence[KernelTime], limits: Limits, weights: int = 0
) -> tuple[KernelRow, ...]:
    """The calls that ran, in their order; the fastest run of each, as others are disturbed ones.

    `weights` are the bytes of weights that a whole run goes through.
    """
    fastest = [k.fastest_ns * 1e-9 if k.calls else 0.0 for k in kernels]
    total = sum(fastest) or 1.0
    return tuple(
        KernelRow(
            k.label,
            k.kernel,
            seconds,
            seconds / total,
            work_of(k),
            limits.least(work_of(k), weights),
        )
        for k, seconds in zip(kernels, fastest, strict=True)
        if k.calls
    )


def work_of(kernel: KernelTime) -> Work:
    """What a kernel call computes and moves, from what the artifact says of it."""
    read = kernel.bytes - kernel.written
    return Work(kernel.flops, read, kernel.written, kernel.weights, DType(kernel.dtype))


def _advice(report: Report) -> Iterator[str]:
    whole = report.whole
    if whole.runs >= 20 and whole.p99 > SPREAD * whole.p50:
        ratio = whole.p99 / whole.p50
        yield (
            f"p99 is {ratio:.1f} times p50: something else runs on this machine, or its clock "
            "changes; trust min and p50"
        )
    share = report.outside_seconds / (report.outside_seconds + report.kernel_seconds or 1.0)
    if share > 0.2 and report.outside_seconds > 20e-6:
        yield f"{share:.0%} of a run is outside kernels: the model is small for its number of calls"
    if report.threads > 1 and report.kernels and whole.p50 / len(report.kernels) < 5e-6:
        yield "kernels take less than 5 µs on average: try --threads 1, which wakes no threads"
    slow = [row for row in report.kernels if row.share >= HEAVY and 0 < row.of_limit < FAR]
    for row in sorted(slow, key=lambda row: -row.share)[:3]:
        name = row.label.partition(" @")[0]
        gain = (row.seconds - row.limit) / max(report.kernel_seconds, 1e-12)
        yield (
            f"{name} takes {row.share:.0%} of the time at {row.of_limit:.0%} of the "
            f"machine's limit ({row.wall}): there a run would be {gain:.0%} shorter"
        )
