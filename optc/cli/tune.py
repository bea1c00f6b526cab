"""`optc tune`: measure candidates of a model's kernels, and keep what was found."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from optc.cli import tuning
from optc.cli.options import capture_options, pipeline_option, read_module, target_option
from optc.cli.terminal import console
from optc.cli.tuning import Duration, Wishes, check_tunable, default_records, export, merge
from optc.ir.diagnostics import error

DEFAULT_SECONDS = 600.0


@click.command("tune")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@target_option()
@click.option(
    "--trials",
    type=click.IntRange(0),
    metavar="N",
    help="Candidates to have measured, those of earlier sessions included; 0 only times the "
    "kernels as they are.",
)
@click.option(
    "--time", "seconds", type=Duration(), metavar="10m", help="Stop after this time [default: 10m]."
)
@click.option(
    "--until", type=Duration(), metavar="5ms", help="Stop when the kernels of a run are this fast."
)
@click.option("--only", multiple=True, metavar="TASK", help="Tune these tasks; `*` stands for any.")
@click.option("--skip", multiple=True, metavar="TASK", help="Leave these tasks as they are.")
@click.option(
    "--search",
    "strategy",
    type=click.Choice(["evolutionary", "random", "exhaustive"]),
    default="evolutionary",
    show_default=True,
    help="Which candidates come first.",
)
@click.option(
    "--workers",
    default="",
    metavar="N",
    help="Builds at a time, by default one for each core; or a Dask scheduler, tcp://HOST:PORT.",
)
@click.option(
    "--device",
    default="",
    metavar="DEVICE",
    help="Measure there instead of here: tracker:HOST:PORT/KEY, or run:COMMAND for an emulator.",
)
@click.option(
    "--records",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The database [default: one for all models, in the cache].",
)
@click.option(
    "--import",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take over the records of another database first.",
)
@click.option(
    "--export",
    "to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the records, with MODEL only those of its tasks, to a file to share.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of whatever is random.")
@pipeline_option()
@click.option("--exact", is_flag=True, help="Tune what `compile --exact` builds.")
@click.option(
    "--threads", type=click.IntRange(1), metavar="N", help="Cores of the target to plan for."
)
@capture_options
def tune_command(
    model: Path | None, records: Path | None, source: Path | None, to: Path | None, **options: Any
) -> None:
    """Find faster settings for the kernels of MODEL by measuring them.

    Everything measured is kept at once: stop at any time, and run the command again to go on. What
    was found is used by `optc compile MODEL --tune 0`, or with `--records FILE` from a file.

    Without MODEL, --import and --export merge and copy databases.
    """
    if model is None and source is None and to is None:
        raise error(
            "E0703", "optc tune takes a MODEL, or --import or --export", help="optc tune --help"
        )
    database = records or default_records()
    if source is not None:
        fresh, count = merge(source, database)
        console().print(f"imported {fresh} new of {count} records into {database}")
    keys = None if model is None else _tune(model, database, **options)
    if to is not None:
        count = export(database, to, keys)
        console().print(f"exported {count} records to {to}")


def _tune(
    model: Path,
    database: Path,
    *,
    target: str,
    trials: int | None,
    seconds: float | None,
    until: float | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    pipeline: str,
    exact: bool,
    threads: int | None,
    shape: str,
    unsafe_load: bool,
    example: Path | None,
    **options: Any,
) -> frozenset[str]:
    """Tune a model; answers with the keys of its tasks."""
    from optc.autotune.events import Budget
    from optc.cli.progress import Progress
    from optc.cli.tuning_view import show_outcome
    from optc.driver import Options, lower_module
    from optc.ir.targets.find import find_target
    from optc.passes.pipeline import Pipeline

    machine = find_target(target)
    machine = replace(machine, cores=threads) if threads else machine
    check_tunable(machine)
    passes = Options(Pipeline.parse(pipeline), exact)
    budget = Budget(trials, seconds, until)
    if budget == Budget():
        budget = Budget(seconds=DEFAULT_SECONDS)
    wishes = Wishes(budget, database, only=_names(only), skip=_names(skip), **options)
    with closing(tuning.measurer_of(machine, wishes)) as measurer:
        with Progress() as progress:
            progress("capture", 0, 0)
            module = read_module(model, shape, unsafe_load, example)
            progress("passes", 0, 0)
            fused = lower_module(module, machine, passes)
        outcome = tuning.run_session(fused, passes.machine(machine), wishes, measurer)
    show_outcome(outcome)
    console().print(f"records in {database}")
    return frozenset(row.task.key for row in outcome.rows)


def _names(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.strip() for text in patterns for name in text.split(",") if name.strip())
