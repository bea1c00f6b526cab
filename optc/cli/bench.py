"""`optc bench`: percentiles, kernels against the machine's limit, and advice."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from optc.bench import KernelRow, Report, bench
from optc.cli.inputs import read_arrays
from optc.cli.options import (
    apply_threshold,
    cache_folder,
    check_memory,
    memory_option,
    threads_option,
    threshold_option,
)
from optc.cli.terminal import console, plain_table, styled
from optc.inputs import random_arrays
from optc.ir.targets.detect import host_with
from optc.limits import limits_of
from optc.report.numbers import bytes_text, place_text, seconds_text, three_digits
from optc.roofline import Limits
from optc.runtime import load

BEYOND = 1.05  # of a limit: it was measured while something else ran, so it is measured again
WORTH = 0.01  # share of the time below which a clock's step is as long as the kernel


@click.command("bench")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--runs",
    "-n",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="Runs that are timed.",
)
@click.option(
    "--warmup",
    type=click.IntRange(0, 1_000_000),
    default=10,
    show_default=True,
    help="Runs before the first.",
)
@threads_option()
@memory_option("Refuse an artifact that needs more.")
@click.option(
    "--input",
    "-i",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Inputs by name; without it they are random.",
)
@threshold_option()
@click.option("--all", "everything", is_flag=True, help="Every kernel call, not the longest 20.")
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
def bench_command(
    artifact: Path,
    runs: int,
    warmup: int,
    threads: int,
    memory: int | None,
    source: Path | None,
    threshold: str | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Time ARTIFACT on this machine: percentiles of whole runs, then a table of its kernels.

    "% of limit" compares a kernel with the least time this machine could need for its operations
    and bytes with the instructions that the artifact may use; "bound" says what that time comes
    from. The limits are measured once and kept (`optc targets host --measure`).
    """
    check_memory(artifact, memory)
    start = time.perf_counter()
    with load(artifact, threads=threads, cache=cache_folder() / "artifacts") as model:
        loaded = time.perf_counter() - start
        inputs = read_arrays(source) if source is not None else random_arrays(model.inputs, 0)
        built_for = model.manifest["target"]
        host = host_with(built_for["features"])
        apply_threshold(model, threshold)
        count = threads or host.cores
        limits = Limits.unknown(1) if "gpu" in built_for else limits_of(host, count, cache_folder())
        report = bench(
            model, inputs, limits, threads=count, runs=runs, warmup=warmup, load_seconds=loaded
        )
    if any(row.of_limit > BEYOND and row.share > WORTH for row in report.kernels):
        report = report.against(limits_of(host, count, cache_folder(), again=True))
    if as_json:
        click.echo(json.dumps(plain(report), indent=1))
        return
    show_report(report, 1_000_000 if everything else 20)


def plain(report: Report) -> dict[str, Any]:
    """A report as JSON takes it; a kernel's numbers side by side."""
    kernels = [
        {
            "label": row.label,
            "kernel": row.kernel,
            "seconds": row.seconds,
            "share": row.share,
            "flops": row.work.flops,
            "dtype": row.work.dtype.value,
            "bytes": row.bytes,
            "limit": row.limit,
            "bound": row.least.bound.value,
        }
        for row in report.kernels
    ]
    return {**asdict(replace(report, kernels=())), "kernels": kernels, "advice": report.advice}


def show_report(report: Report, most: int) -> None:
    """Print a report; the kernel table has at most `most` rows, the longest first."""
    out, whole = console(), report.whole
    threads = f"{report.threads} thread{'s' if report.threads > 1 else ''}"
    threads = threads if report.limits.known else "on the GPU"
    out.print(styled((report.name, "bold"), f": {whole.runs} runs, {threads}"))
    table = plain_table("p50", "p90", "p99", "min", "mean", "runs/s", "load", "memory")
    table.add_row(
        *(
            seconds_text(value)
            for value in (whole.p50, whole.p90, whole.p99, whole.least, whole.mean)
        ),
        three_digits(1 / whole.mean),
        seconds_text(report.load_seconds),
        bytes_text(report.peak_bytes),
    )
    out.print(table)
    if report.kernels:
        out.print(_kernels(report, most))
    share = report.limit_seconds / report.kernel_seconds if report.kernel_seconds else 0.0
    of_limit = f", {share:.0%} of the limit" if report.limits.known else ""
    if report.ways:
        ways = ", ".join(f"{name} {runs}" for name, runs in report.ways.items())
        out.print(f"ways out of {sum(report.ways.values())} timed runs: {ways}")
    out.print(
        f"kernels: {len(report.kernels)} calls, {seconds_text(report.kernel_seconds)} a run"
        f"{of_limit}; between kernels {seconds_text(report.outside_seconds)}"
    )
    out.print(_limit_line(report.limits))
    for line in report.advice:
        out.print(styled(("advice", "yellow"), f": {line}"))


def _limit_line(limits: Limits) -> str:
    if not limits.known:
        return "limit: not measured for a GPU"
    near = limits.levels[-1].bandwidth
    others = "".join(f", {name} {peak * 1e-9:.0f}" for name, peak in limits.peaks.items())
    return (
        f"limit: {limits.flops * 1e-9:.0f} GFLOP/s{others}, {near * 1e-9:.1f} GB/s from memory, "
        "more from caches where a kernel's bytes fit (measured)"
    )


def _kernels(report: Report, most: int):  # type: ignore[no-untyped-def]
    numbers = ("ms", "% of time", "speed", "% of limit")
    table = plain_table("kernel", "source", *numbers, "bound", numbers=numbers)
    rows = sorted(report.kernels, key=lambda row: -row.seconds)
    for row in rows[:most]:
        label, _, place = row.label.partition(" @ ")
        table.add_row(label, place_text(place), *_numbers(row), row.wall)
    rest = rows[most:]
    if rest:
        seconds = sum(row.seconds for row in rest)
        share = sum(row.share for row in rest)
        table.add_row(
            f"{len(rest)} more (--all)", "", f"{seconds * 1e3:.3f}", f"{share:.1%}", "", "", ""
        )
    return table


def _numbers(row: KernelRow) -> tuple[str, ...]:
    limit = f"{row.of_limit:.0%}" if row.limit else ""
    return (f"{row.seconds * 1e3:.3f}", f"{row.share:.1%}", row.speed, limit)
