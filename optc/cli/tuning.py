"""Tuning as `optc tune` and `optc compile --tune` do it: what is wished for, and a session."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optc.autotune.events import Budget, Outcome
from optc.cli.failures import INTERRUPTED, show
from optc.cli.options import cache_folder
from optc.cli.tuning_view import View
from optc.ir.diagnostics import Diagnostic, OptcError, Severity, error
from optc.ir.module import Module
from optc.ir.targets.target import Arch, Target

if TYPE_CHECKING:
    from optc.autotune.measurer import Measurer
    from optc.autotune.records import Records
    from optc.autotune.search import Search
    from optc.autotune.task import TuningTask

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
PIECE = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|m|s)")


@dataclass(frozen=True)
class Wishes:
    """What a person asked of a session. Patterns of `only` and `skip` are names with `*`."""

    budget: Budget
    records: Path
    strategy: str = "evolutionary"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    workers: str = ""
    device: str = ""
    seed: int = 0


class Duration(click.ParamType[float]):
    """`90s`, `10m`, `1h30m`, `5ms`, as seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds; fails with what a duration looks like."""
        if isinstance(value, float):
            return value
        seconds = duration(str(value))
        if seconds is None:
            self.fail(f"{value!r} is no time such as 90s, 10m, 1h or 5ms", param, ctx)
        return seconds


class Effort(click.ParamType[Budget]):
    """`64` trials, or `10m`."""

    name = "effort"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Budget:
        """A budget; fails with what one looks like."""
        if isinstance(value, Budget):
            return value
        if str(value).isdigit():
            return Budget(trials=int(str(value)))
        seconds = duration(str(value))
        if seconds is None or seconds < 1:
            self.fail(f"{value!r} is neither a number of trials nor a time such as 10m", param, ctx)
        return Budget(seconds=seconds)


def duration(text: str) -> float | None:
    """Seconds of `1h30m`; None when it is no duration."""
    pieces = PIECE.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        return None
    return sum(float(number) * UNITS[unit] for number, unit in pieces)


def default_records() -> Path:
    """The database that every tuning on this machine adds to."""
    return cache_folder() / "tuning" / "records.jsonl"


def check_tunable(target: Target) -> None:
    """Raise E0732 for a target whose kernels leave nothing to choose."""
    if target.arch is Arch.CUDA:
        raise error(
            "E0732",
            f"kernels for {target.name} leave nothing to tune yet",
            help="optc compile without --tune",
        )


def run_session(module: Module, target: Target, wishes: Wishes, measurer: Measurer) -> Outcome:
    """Tune the kernels of a fused module, showing how it goes; raises OptcError.

    Ctrl-C ends it with a line that says what is kept. The measurer is the caller's to close.
    """
    from optc.autotune.metaschedule import widened
    from optc.autotune.records import Records
    from optc.autotune.session import tune
    from optc.autotune.task import tasks_of

    tasks = tasks_of(module, target)
    chosen = chooser(tasks, wishes.only, wishes.skip)
    records = Records.existing(wishes.records) if wishes.records.exists() else None
    records = records or Records.open(wishes.records)
    known = len(records)
    plan = _searches(records, wishes)
    try:
        with View(wishes.budget) as view:
            return tune(
                tasks,
                measurer,
                records,
                wishes.budget,
                plan.search,
                chosen=chosen,
                observe=view,
                features=plan.features,
                widen=lambda task: (
                    widened(task, target, wishes.seed) if wishes.budget.trials != 0 else task
                ),
            )
    except KeyboardInterrupt:
        fresh = len(records) - known
        click.echo(
            f"\ninterrupted; {fresh} new records are kept in {wishes.records}, and the same "
            "command goes on from there",
            err=True,
        )
        raise click.exceptions.Exit(INTERRUPTED) from None


def measurer_of(target: Target, wishes: Wishes) -> Measurer:
    """The machine that candidates are tried on; raises E0733, and E0735 to E0737."""
    from optc.autotune.device import open_measurer
    from optc.ir.targets.detect import runs_here

    if not wishes.device and not runs_here(target):
        raise error(
            "E0733",
            f"kernels for {target.name} do not run on this machine",
            help="--device tracker:HOST:PORT/KEY, or --device 'run:qemu-aarch64-static -cpu max'",
        )
    return open_measurer(target, wishes.device, wishes.workers, cache=cache_folder())


def chooser(
    tasks: Sequence[TuningTask], only: Sequence[str], skip: Sequence[str]
) -> Callable[[TuningTask], bool]:
    """Whether a task is wanted; raises E0731 for a pattern that no task has."""
    names = [task.name for task in tasks]
    for pattern in (*only, *skip):
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, 3, 0.4) or names[:3]
            raise error(
                "E0731",
                f"there is no task {pattern!r}; did you mean {' or '.join(near)}?",
                help="optc tune MODEL --trials 0   lists the tasks",
            )

    def chosen(task: TuningTask) -> bool:
        wanted = not only or any(fnmatchcase(task.name, pattern) for pattern in only)
        return wanted and not any(fnmatchcase(task.name, pattern) for pattern in skip)

    return chosen


@dataclass
class _Searches:
    """How searches of a session are made, and what they learn from."""

    search: Callable[[TuningTask], Search]
    features: Callable[..., tuple[float, ...]] = field(default=lambda _task, _knobs: ())


def _searches(records: Records, wishes: Wishes) -> _Searches:
    from optc.autotune.model import CostModel, is_available
    from optc.autotune.search import Strategy, search

    strategy = Strategy(wishes.strategy)
    if strategy is not Strategy.EVOLUTIONARY:
        return _Searches(lambda task: search(strategy, task.candidates, seed=wishes.seed))
    model = CostModel(records, wishes.seed)
    if is_available():
        return _Searches(
            lambda task: search(strategy, task.candidates, model.predictor(task), wishes.seed),
            model.features,
        )
    show(
        Diagnostic(
            "N0734",
            "candidates are ranked by the analytic model alone: scikit-learn is not installed",
            Severity.REMARK,
            help="pip install 'optc[tune]'",
        )
    )
    return _Searches(
        lambda task: search(strategy, task.candidates, seed=wishes.seed), model.features
    )


def merge(source: Path, into: Path) -> tuple[int, int]:
    """Records of a file into a database: how many were new, of how many."""
    from optc.autotune.records import Records

    theirs = Records.existing(source)
    return Records.open(into).add(theirs), len(theirs)


def export(source: Path, to: Path, keys: frozenset[str] | None = None) -> int:
    """Write the best knowledge of a database, of these tasks or of all, to a file of its own."""
    from optc.autotune.records import Records, text
    from optc.ir.output import check_writable, replace_file

    check_writable(to)
    chosen = [r for r in Records.open(source) if keys is None or r.key in keys]
    if not chosen:
        raise OptcError(
            Diagnostic("E0730", f"{source} holds nothing to export", help="optc tune MODEL")
        )
    with replace_file(to) as aside:
        aside.write_text(text(chosen), encoding="utf-8")
    return len(chosen)
