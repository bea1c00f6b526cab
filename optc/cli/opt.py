"""`optc opt`: passes on a graph in text form, for people who write or debug passes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optc.cli.data import budget_option, calibration_options, data_options
from optc.cli.failures import show
from optc.cli.options import cache_folder, pipeline_option, target_option
from optc.ir.diagnostics import OptcError

if TYPE_CHECKING:
    from optc.quality.evidence import DataRequest


@click.command("opt")
@click.argument("graph", type=click.Path(path_type=Path, allow_dash=True))
@pipeline_option()
@target_option()
@click.option(
    "--output",
    "-o",
    "output",
    type=click.Path(path_type=Path),
    metavar="FILE.optc",
    help="Write the graph there, its weights beside it; without it the text goes to stdout.",
)
@click.option(
    "--print-changed", is_flag=True, help="Show the diff of every pass that changed something."
)
@click.option("--time-passes", is_flag=True, help="Show how long every pass took.")
@click.option("--exact", is_flag=True, help="Skip every pass that may change a bit of the result.")
@budget_option()
@calibration_options
@data_options
@click.option(
    "--remarks/--no-remarks", default=True, help="Show why rewrites were not done, on stderr."
)
def opt_command(
    graph: Path,
    pipeline: str,
    target: str,
    output: Path | None,
    print_changed: bool,
    time_passes: bool,
    exact: bool,
    request: DataRequest | None,
    remarks: bool,
) -> None:
    """Run passes on GRAPH, a module or a graph in text form (- for stdin), verifying after each.

    `optc passes` lists the passes.
    """
    from optc.contexts import pass_context
    from optc.ir.printer import print_module
    from optc.ir.store import load, save
    from optc.ir.targets.find import find_target
    from optc.ir.text import parse
    from optc.ir.verify import verify
    from optc.observers import Changes
    from optc.passes.base import Observer, run_passes
    from optc.passes.pipeline import Pipeline

    steps = Pipeline.parse(pipeline).passes
    machine = find_target(target)
    module = parse(sys.stdin.read(), name="<stdin>") if str(graph) == "-" else load(graph)
    findings = verify(module)
    if findings:
        raise OptcError(*findings)
    from optc.cli.compile import Times

    evidence = None
    if request is not None:
        from optc.quality.evidence import Evidence

        evidence = Evidence(module, request, cache_folder())
    context = pass_context(machine, exact=exact, evidence=evidence)
    times = Times()
    observers: list[Observer] = [times.observer]
    if print_changed:
        observers.append(Changes(lambda text: click.echo(text, err=output is None)))
    result = run_passes(module, steps, context, observers)
    for diagnostic in context.diagnostics if remarks else ():
        show(diagnostic)
    if output is not None:
        save(result, output)
    else:
        click.echo(print_module(result), nl=False)
    if time_passes:
        times.show(stderr=True)
