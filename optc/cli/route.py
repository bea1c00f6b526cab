"""`optc route`: a small model answers where it is sure, a large one where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optc.cli.closing import check_ahead, latency_of, show_closing, show_findings, show_verdict
from optc.cli.data import budget_option, calibration_options, data_options
from optc.cli.options import (
    cache_folder,
    capture_options,
    memory_option,
    output_option,
    payoff_options,
    pipeline_option,
    read_module,
    target_option,
)
from optc.cli.progress import Progress
from optc.ir.diagnostics import error
from optc.ir.output import check_writable

if TYPE_CHECKING:
    from optc.ir.module import Module
    from optc.passes.base import Pass
    from optc.quality.evidence import DataRequest

DECISIONS = ("energy", "maxprob", "entropy", "margin")


@click.command("route")
@click.argument("small", type=click.Path(path_type=Path))
@click.argument("large", type=click.Path(path_type=Path))
@output_option()
@target_option()
@pipeline_option()
@click.option(
    "--decision",
    type=click.Choice(DECISIONS),
    default="energy",
    show_default=True,
    help="What makes the small model sure.",
)
@click.option(
    "--threshold",
    type=float,
    metavar="T",
    help="From which score on the small model answers; without it --data chooses, within "
    "--accuracy-drop (1% without one). It can be changed when the artifact runs.",
)
@click.option(
    "--large-shape",
    metavar="NAME=N,...",
    help="As --shape, for LARGE. With a smaller batch than that of SMALL, which is a multiple of "
    "it, the rows that SMALL is not sure of are packed.",
)
@memory_option("The most memory a process may need to run both.")
@budget_option()
@calibration_options
@data_options
@capture_options
@click.option("--remarks", is_flag=True, help="Show why things were or were not done.")
@payoff_options
@click.option(
    "--bench/--no-bench", default=True, help="Time the artifact when it runs on this machine."
)
def route_command(
    small: Path,
    large: Path,
    output: Path,
    target: str,
    pipeline: str,
    decision: str,
    threshold: float | None,
    large_shape: str | None,
    memory: int | None,
    request: DataRequest | None,
    shape: str,
    unsafe_load: bool,
    example: Path | None,
    remarks: bool,
    judge_passes: bool,
    measure_passes: bool,
    bench: bool,
) -> None:
    """Compile SMALL with LARGE behind it: LARGE runs where SMALL is not sure (E-LANG).

    Both have the same inputs and outputs; they may be one file, with passes (-p) that make the
    small model of it.
    """
    from optc.driver import Options, compile_module
    from optc.ir.targets.find import find_target
    from optc.passes.pipeline import Pipeline

    machine = find_target(target)
    passes = Pipeline.parse(pipeline)
    if request is None and threshold is None:
        raise error("E0703", "a threshold is given, or chosen on data", help="--data calib.npz")
    check_writable(output)
    check_ahead(output, machine)
    with Progress() as progress:
        progress("capture", 0, 0)
        first = read_module(small, shape, unsafe_load, example)
        wanted = shape if large_shape is None else large_shape
        second = read_module(large, wanted, unsafe_load, example)
        step, original = _routing(first, second, request, decision, threshold)
        options = Options(
            replace(passes, passes=(*passes.passes, step)),
            cache=cache_folder(),
            data=request,
            memory=memory,
            judge_passes=judge_passes,
            measure_passes=measure_passes,
        )
        compiled = compile_module(
            first, machine, output, options, progress=progress, original=original
        )
    show_findings(compiled, remarks)
    show_closing(compiled, latency_of(compiled, machine, bench))
    show_verdict(compiled)


def _routing(
    small: Module,
    large: Module,
    request: DataRequest | None,
    decision: str,
    threshold: float | None,
) -> tuple[Pass, Module]:
    """The pass that joins the models, and what the artifact is compared with."""
    from optc.passes.early_exit.decision import Decision
    from optc.passes.early_exit.packing import in_groups
    from optc.passes.early_exit.route import pairing
    from optc.passes.early_exit.route_to import RouteTo

    _, _, output = (request.metric or "" if request else "").partition("@")
    packing = pairing(small, large)
    original = in_groups(large, packing) if packing else large
    return RouteTo(large, output or None, Decision(decision), threshold), original
