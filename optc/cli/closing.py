"""How a compilation ends on the command line: findings, the closing table, the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from optc.cli.failures import show
from optc.cli.options import cache_folder
from optc.cli.payoffs import show_payoffs
from optc.cli.terminal import console, plain_table
from optc.ir.diagnostics import OptcError, Severity
from optc.ir.targets.target import Target

if TYPE_CHECKING:
    from optc.driver import Compiled
    from optc.report.summary import Latency

RUNS, SECONDS = 50, 2.0  # of the closing table's latency: whichever is reached first


def check_ahead(output: Path, target: Target) -> None:
    """Find out now what packaging would find out after all kernels were built."""
    from optc.backends.aot.folder import check_replaceable
    from optc.backends.aot.link import find_toolchain

    check_replaceable(output)
    find_toolchain(target.triple, cache_folder())


def show_findings(compiled: Compiled, remarks: bool) -> None:
    """Print diagnostics; remarks are counted where they are not asked for."""
    quiet = 0
    for diagnostic in compiled.diagnostics:
        if diagnostic.severity is Severity.REMARK and not remarks:
            quiet += 1
        else:
            show(diagnostic)
    if quiet:
        plural = "s" if quiet > 1 else ""
        console(stderr=True).print(f"{quiet} remark{plural}: --remarks shows them")


def latency_of(compiled: Compiled, target: Target, wanted: bool) -> Latency:
    """Time the artifact on this machine; of one with exits every way."""
    from optc.bench import Percentiles
    from optc.exits import measure_paths
    from optc.inputs import random_arrays
    from optc.report.summary import Latency
    from optc.runtime import load

    if not wanted:
        return Latency(None, reason="not asked for, or no shared library was made")
    try:
        with load(
            compiled.path, threads=target.cores, verify=False, cache=cache_folder() / "artifacts"
        ) as model:
            inputs = random_arrays(model.inputs, 0)
            first = float(model.bench(**inputs, runs=2).min()) * 1e-9
            runs = max(5, min(RUNS, int(SECONDS / max(first, 1e-9))))
            whole = Percentiles.of(model.bench(**inputs, runs=runs))
            counts = compiled.quality.exits if compiled.quality is not None else {}
            paths = measure_paths(model, inputs, counts, runs) if counts else None
            return Latency(whole, target.cores, paths=paths)
    except OptcError as problem:
        return Latency(None, reason=problem.diagnostics[0].message)


def show_closing(compiled: Compiled, latency: Latency) -> None:
    """Print the table of before and after, and whether passes paid."""
    from optc.inspect import inspect_module
    from optc.report.summary import closing_rows

    before, after = inspect_module(compiled.source), inspect_module(compiled.module)
    table = plain_table("", "model", "artifact")
    measured = (latency, compiled.quality, compiled.fit, compiled.timings)
    for row in closing_rows(before, after, compiled.manifest, compiled.seconds, *measured):
        table.add_row(row.label, row.before, row.after)
    console().print(table)
    show_payoffs(compiled)
    console().print(f"wrote {compiled.path}")


def show_verdict(compiled: Compiled) -> None:
    """Raise E0747 where the accuracy budget does not hold; the artifact is there, and says so."""
    finding = compiled.quality.finding if compiled.quality is not None else None
    if finding is not None and finding.severity is Severity.ERROR:
        raise OptcError(finding)
    if finding is not None:
        show(finding)
