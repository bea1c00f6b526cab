"""`optc compile`: the main job, from a model file to an artifact and the closing table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optc.cli import tuning
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
from optc.cli.terminal import console, plain_table
from optc.cli.tuning import Effort, Wishes
from optc.ir.diagnostics import error
from optc.ir.module import Module
from optc.ir.output import check_writable
from optc.ir.targets.target import Target

if TYPE_CHECKING:
    from optc.autotune.events import Budget
    from optc.driver import Options
    from optc.passes.base import Observer
    from optc.quality.evidence import DataRequest

KINDS = ("so", "a", "obj", "c")
DIALECTS = ("linalg", "tosa", "stablehlo")
NOTEWORTHY = 0.05  # seconds from which a pass that changed nothing has its own row


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@output_option()
@target_option()
@click.option(
    "--emit",
    default="so",
    show_default=True,
    metavar="KIND,...",
    help=f"What to make: {', '.join(KINDS)} (several go together), or the model as MLIR text: "
    f"{', '.join(DIALECTS)}.",
)
@pipeline_option()
@click.option(
    "--exact",
    is_flag=True,
    help="Drop every pass that may change a bit of the result, and compute convolutions directly.",
)
@click.option(
    "--threads", type=click.IntRange(1), metavar="N", help="Cores of the target to plan for."
)
@click.option(
    "--tune",
    "effort",
    type=Effort(),
    metavar="N|10m",
    help="Tune first, for N trials or a time, as `optc tune` does; 0 uses what is known already.",
)
@click.option(
    "--records",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Use the records of FILE; with --tune, add to them.",
)
@memory_option(
    "The most memory a process may need to run the model; where it takes that, weights stay in "
    "the file and come through a window."
)
@budget_option()
@calibration_options
@data_options
@capture_options
@click.option(
    "--dump-passes",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the graph after every pass that changed it, with its weights.",
)
@click.option(
    "--print-changed", is_flag=True, help="Show the diff of every pass that changed something."
)
@click.option("--time-passes", is_flag=True, help="Show how long every pass took.")
@click.option(
    "--remarks",
    is_flag=True,
    help="Show why things were or were not done; report.html has them too.",
)
@payoff_options
@click.option(
    "--bench/--no-bench", default=True, help="Time the artifact when it runs on this machine."
)
@click.option(
    "--dry-run", is_flag=True, help="Show the plan and stop before anything is compiled or written."
)
def compile_command(
    model: Path,
    output: Path,
    target: str,
    emit: str,
    pipeline: str,
    exact: bool,
    threads: int | None,
    effort: Budget | None,
    records: Path | None,
    memory: int | None,
    request: DataRequest | None,
    shape: str,
    unsafe_load: bool,
    example: Path | None,
    dump_passes: Path | None,
    print_changed: bool,
    time_passes: bool,
    remarks: bool,
    judge_passes: bool,
    measure_passes: bool,
    bench: bool,
    dry_run: bool,
) -> None:
    """Compile MODEL (.pt2, or a graph in text form) for a machine; OUT runs by itself."""
    from optc.ir.targets.find import find_target

    machine = find_target(target)
    machine = replace(machine, cores=threads) if threads else machine
    kinds = _kinds(emit)
    check_writable(output)
    options = _options(kinds, pipeline, exact)  # read now: a typing error must not cost a capture
    options, wishes = _tuning(
        replace(
            options,
            data=request,
            memory=memory,
            judge_passes=judge_passes,
            measure_passes=measure_passes,
        ),
        machine,
        effort,
        records,
    )
    if kinds[0] in KINDS:
        check_ahead(output, machine)
    elif request is not None:
        raise error("E0703", f"--data judges artifacts, not {kinds[0]}", help="--emit so")
    with Progress() as progress:
        progress("capture", 0, 0)
        module = read_module(model, shape, unsafe_load, example)
        if dry_run or kinds[0] in DIALECTS:
            compiled = None
        else:
            from optc.driver import compile_module

            watchers, times = _watchers(dump_passes, print_changed)
            compiled = compile_module(
                module,
                machine,
                output,
                options,
                observers=watchers,
                progress=progress,
                tune=_tuner(options.machine(machine), wishes, progress) if wishes else None,
            )
    if dry_run:
        _show_plan(module, machine, options, output, kinds)
    elif compiled is None:
        _write_mlir(module, kinds[0], output)
    else:
        if time_passes:
            times.show()
        show_findings(compiled, remarks)
        show_closing(compiled, latency_of(compiled, machine, bench and "so" in kinds))
        show_verdict(compiled)


def _kinds(emit: str) -> tuple[str, ...]:
    from difflib import get_close_matches

    kinds = tuple(dict.fromkeys(kind.strip() for kind in emit.split(",") if kind.strip()))
    known = (*KINDS, *DIALECTS)
    for kind in kinds:
        if kind not in known:
            near = get_close_matches(kind, known, 2, 0.4)
            offer = f"; did you mean {' or '.join(near)}?" if near else ""
            raise error(
                "E0703", f"--emit: unknown kind {kind!r}{offer}", help=f"--emit {','.join(KINDS)}"
            )
    if not kinds or (len(kinds) > 1 and set(kinds) & set(DIALECTS)):
        raise error(
            "E0703", "--emit takes one MLIR dialect, or kinds of artifact", help="--emit so,a"
        )
    return kinds


def _options(kinds: Sequence[str], pipeline: str, exact: bool) -> Options:
    from optc.backends.aot.build import Emit
    from optc.driver import Options
    from optc.passes.pipeline import Pipeline

    emit = tuple(Emit(kind) for kind in kinds if kind in KINDS)
    return Options(Pipeline.parse(pipeline), exact, emit, cache_folder())


def _tuning(
    options: Options, target: Target, effort: Budget | None, records: Path | None
) -> tuple[Options, Wishes | None]:
    """The options with the records to use, and the session to run before."""
    from optc.autotune.records import Records
    from optc.cli.tuning import check_tunable, default_records

    if effort is None:
        if records is not None:
            Records.existing(records)
        return replace(options, records=records), None
    check_tunable(target)
    database = records or default_records()
    if effort.trials == 0:
        known = database if records or database.exists() else None
        return replace(options, records=known), None
    return replace(options, records=database), Wishes(effort, database)


def _tuner(target: Target, wishes: Wishes, progress: Progress) -> Callable[[Module], None]:
    from optc.cli.tuning_view import show_outcome

    def tune(module: Module) -> None:
        with progress.paused(), closing(tuning.measurer_of(target, wishes)) as measurer:
            show_outcome(tuning.run_session(module, target, wishes, measurer))

    return tune


class Times:
    """The table behind `--time-passes`."""

    def __init__(self) -> None:
        from optc.observers import PassTimes

        self.observer = PassTimes()

    def show(self, *, stderr: bool = False) -> None:
        """Print the passes that changed something, or took a while, in the order they ran."""
        numbers = ("ms", "nodes before", "after")
        table = plain_table("pass", *numbers, numbers=numbers)
        quiet = []
        for record in self.observer.records:
            if not record.changed and record.seconds < NOTEWORTHY:
                quiet.append(record)
                continue
            nodes = (str(record.before), str(record.after) if record.changed else "=")
            table.add_row(record.name, f"{record.seconds * 1e3:.1f}", *nodes)
        spent = sum(record.seconds for record in quiet)
        table.add_row(f"{len(quiet)} others changed nothing", f"{spent * 1e3:.1f}", "", "")
        console(stderr=stderr).print(table)


def _watchers(folder: Path | None, changes: bool) -> tuple[tuple[Observer, ...], Times]:
    from optc.observers import Changes, Dumps

    times = Times()
    watchers: list[Observer] = [times.observer]
    if folder is not None:
        watchers.append(Dumps(folder))
    if changes:
        watchers.append(Changes(click.echo))
    return tuple(watchers), times


def _show_plan(
    module: Module, target: Target, options: Options, output: Path, kinds: Sequence[str]
) -> None:
    from optc.driver import passes_of
    from optc.inspect import inspect_module
    from optc.passes.base import Effect
    from optc.report.numbers import bytes_text, count_text

    facts = inspect_module(module)
    out = console()
    out.print(
        f"model    {facts.name}: {len(facts.nodes)} ops, {count_text(facts.parameters)} "
        f"parameters, {count_text(facts.macs)} multiply-adds, {bytes_text(facts.weight_bytes)}"
    )
    for kind, ports in (("input", module.inputs), ("output", module.outputs)):
        for port in ports:
            out.print(f"{kind:8} {port.name}: {port.type}")
    out.print(f"target   {target.name}: {target.description}, {target.cores} cores")
    out.print(f"output   {output} ({', '.join(kinds)})")
    for step in passes_of(options):
        dropped = (
            "  dropped by --exact" if options.exact and step.effect is not Effect.EXACT else ""
        )
        out.print(f"pass     {step} ({step.effect.value}){dropped}")
    out.print("nothing was compiled: this was a dry run")


def _write_mlir(module: Module, dialect: str, output: Path) -> None:
    from optc.backends.mlir.bridge import Dialect, to_mlir
    from optc.ir.output import replace_file

    text = str(to_mlir(module, Dialect(dialect)))
    path = output if output.suffix == ".mlir" else output.with_name(f"{output.name}.{dialect}.mlir")
    with replace_file(path) as aside:
        aside.write_text(text, encoding="utf-8")
    console().print(f"wrote {path}")
