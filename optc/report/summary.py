"""The closing table: what went in, what came out, what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optc.backends.grown import grown_bytes
from optc.bench import Percentiles
from optc.inspect import ModuleFacts
from optc.report.exits import path_rows
from optc.report.numbers import bytes_text, count_text, seconds_text
from optc.report.quality import quality_rows
from optc.report.row import Row

if TYPE_CHECKING:
    from optc.exits import Paths
    from optc.measured_passes import Timings
    from optc.memory import Fit
    from optc.quality.evidence import Measured


@dataclass(frozen=True, slots=True)
class Latency:
    """What runs on this machine took, and on how many threads; or why none were made."""

    whole: Percentiles | None
    threads: int = 0
    reason: str = ""
    paths: Paths | None = None  # of a model with exits


def size_rows(before: ModuleFacts, after: ModuleFacts, memory: Mapping[str, int]) -> Iterator[Row]:
    """What does not depend on a clock: nodes, parameters, multiply-adds, bytes.

    `memory` has `arena_bytes`, `stored_bytes` (of weights, in their file), `state_bytes` and
    `peak_bytes` of the artifact, and where weights grew `winograd_bytes`.
    """
    yield Row("ops", count_text(len(before.nodes)), f"{count_text(len(after.nodes))} kernels")
    yield Row("parameters", count_text(before.parameters), count_text(after.parameters))
    yield Row("multiply-adds", count_text(before.macs), count_text(after.macs))
    grown, stored = memory.get("winograd_bytes", 0), bytes_text(memory["stored_bytes"])
    more = f", {bytes_text(grown)} of it by Winograd's filtering (winograd=off)" if grown else ""
    yield Row("weights", bytes_text(before.weight_bytes), f"{stored}{more}")
    yield Row("activations", bytes_text(before.peak_bytes), bytes_text(memory["arena_bytes"]))
    if memory["state_bytes"]:
        state = sum(port.type.nbytes for port in before.states)
        yield Row("state", bytes_text(state), bytes_text(memory["state_bytes"]))
    whole = before.weight_bytes + before.peak_bytes
    yield Row("peak memory", bytes_text(whole), bytes_text(memory["peak_bytes"]))


def budget_rows(fit: Fit | None) -> Iterator[Row]:
    """The word on a memory budget; nothing without one."""
    if fit is not None:
        yield Row("memory budget", bytes_text(fit.budget), fit.verdict)


def closing_rows(
    before: ModuleFacts,
    after: ModuleFacts,
    manifest: Mapping[str, Any],
    seconds: Mapping[str, float],
    latency: Latency,
    quality: Measured | None = None,
    fit: Fit | None = None,
    timings: Timings | None = None,
) -> Iterator[Row]:
    """The whole table: sizes, then what was measured in this run."""
    keys = ("arena_bytes", "stored_bytes", "state_bytes", "peak_bytes")
    memory = {key: int(manifest[key]) for key in keys}
    memory["winograd_bytes"] = grown_bytes(manifest.get("metadata", {}))
    yield from size_rows(before, after, memory)
    yield from budget_rows(fit)
    yield Row(
        "size on disk", "", bytes_text(sum(entry["bytes"] for entry in manifest["files"].values()))
    )
    stages = ", ".join(f"{name} {seconds_text(value)}" for name, value in seconds.items())
    yield Row("compile time", "", f"{seconds_text(sum(seconds.values()))} ({stages})")
    yield from timing_rows(timings)
    if latency.paths is not None:
        yield from path_rows(latency.paths)
    elif timings is None or timings.whole is None:
        yield Row("latency", "", _latency(latency))
    if quality is not None:
        yield from quality_rows(quality)


def timing_rows(timings: Timings | None) -> Iterator[Row]:
    """The original's latency beside the artifact's, where both were timed."""
    from optc.report.payoff import ratio_text

    if timings is None or timings.whole is None:
        return
    pair = timings.whole
    before, after = (
        f"p50 {seconds_text(side.p50)}, p99 {seconds_text(side.p99)}"
        for side in (pair.before, pair.after)
    )
    yield Row("latency, side by side", before, f"{after}: {ratio_text(pair)}")


def _latency(latency: Latency) -> str:
    if latency.whole is None:
        return f"not measured: {latency.reason}"
    whole, threads = latency.whole, latency.threads
    on = f"{threads} thread{'s' if threads > 1 else ''}, {whole.runs} runs"
    return f"p50 {seconds_text(whole.p50)}, p99 {seconds_text(whole.p99)} ({on})"
