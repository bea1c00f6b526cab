"""Tuning as people see it: three lines at a terminal, plain lines elsewhere, a closing table."""

from __future__ import annotations

import time
from textwrap import shorten

from rich.text import Text

from optc.autotune.events import (
    Budget,
    Event,
    Guessed,
    Outcome,
    Planned,
    Row,
    Tried,
    Trying,
    Widening,
)
from optc.cli.live import PLAIN_EVERY, LiveText, bar
from optc.cli.terminal import console, plain_table
from optc.report.numbers import seconds_text


class View(LiveText):
    """Shows elapsed time, an estimate of what is left, the task, its best, and the gain so far."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.head, self.task = "preparing", ""
        self.first = self.now = 0.0  # seconds of a run
        self.known = self.trials = self.space = 0
        super().__init__()
        self.searching = self.begin

    def __call__(self, event: Event) -> None:
        """Take note of what the session says."""
        match event:
            case Guessed():
                self.head = f"best guesses {event.done}/{event.total}"
                self.task = f"{event.task.name}  {_time(event.seconds)}"
                self._say(f"{self.head}: {self.task}", waits=event.done < event.total)
            case Widening():
                self.head, self.task = "searching schedules", event.task.name
                self._say(f"{self.head} for {self.task}, which no template takes")
            case Planned():
                self._planned(event)
            case Trying():
                self.task = f"{event.task.name}  best {_time(event.best)}, trying {event.count}"
            case Tried():
                self._tried(event)

    def _planned(self, event: Planned) -> None:
        self.first = self.now = event.seconds
        self.known = self.trials = event.known
        self.space = sum(len(task.candidates) - 1 for task in event.tuned)
        self.searching = time.perf_counter()
        self.head = f"{len(event.tuned)} tasks are worth tuning, {len(event.trivial)} are not"
        known = f"; {event.known} trials are known already" if event.known else ""
        self._say(f"{self.head}; kernels of a run {seconds_text(event.seconds)}{known}")

    def _tried(self, event: Tried) -> None:
        self.trials, self.now = event.trials, event.seconds
        faster = event.best is not None and event.best < (event.before or 1e9)
        found = f"{_time(event.before)} -> {_time(event.best)}" if faster else _time(event.best)
        self._say(
            f"{self._count()}  {event.task.name}: {found}; run {self._gain()}; {self._times()}",
            waits=not faster,
        )

    def _say(self, text: str, *, waits: bool = False) -> None:
        now = time.perf_counter()
        if self.console.is_terminal or (waits and now - self.spoken < PLAIN_EVERY):
            return
        self.spoken = now
        self.console.print(text)

    def _gain(self) -> str:
        factor = f" ({self.first / self.now:.2f}x)" if self.now else ""
        return f"{seconds_text(self.first)} -> {seconds_text(self.now)}{factor}"

    def _count(self) -> str:
        most = min(self.space, self.budget.trials or self.space)
        return f"{self.trials}/{max(most, self.trials)} trials"

    def _times(self) -> str:
        elapsed = time.perf_counter() - self.begin
        left = self._left()
        eta = f", about {seconds_text(left)} left" if left is not None and left >= 1 else ""
        return f"elapsed {seconds_text(elapsed)}{eta}"

    def _left(self) -> float | None:
        """Seconds until the trials or the time end; None before anything is known."""
        now = time.perf_counter()
        fresh = self.trials - self.known
        most = min(self.space, self.budget.trials or self.space)
        ends = []
        if fresh and most:
            ends.append((now - self.searching) / fresh * max(0, most - self.trials))
        if self.budget.seconds is not None:
            ends.append(max(0.0, self.budget.seconds - (now - self.begin)))
        return min(ends, default=None)

    def lines(self) -> Text:
        """The trials, the task, the gain and the times."""
        most = min(self.space, self.budget.trials or self.space)
        shown = f"  {bar(self.trials, most)} {self._count()}" if most else ""
        run = f"run {self._gain()}  ·  " if self.first else ""
        lines = f"{self.head}{shown}\n{self.task}\n{run}{self._times()}"
        return Text(lines, overflow="ellipsis", no_wrap=True)


def _time(seconds: float | None) -> str:
    return "failed" if seconds is None else seconds_text(seconds)


def show_outcome(outcome: Outcome) -> None:
    """Print the closing table, and where it stopped paying."""
    out = console()
    numbers = ("uses", "before", "after", "gain", "share", "trials")
    table = plain_table("task", "template", *numbers, numbers=numbers)
    whole = outcome.before or 1.0
    shares = {row.task.key: row.task.uses * (row.before or 0.0) / whole for row in outcome.rows}
    tuned = [row for row in outcome.rows if row.tuned]
    for row in sorted(tuned, key=lambda row: -shares[row.task.key]):
        gain = f"{row.before / row.after:.2f}x" if row.before and row.after else ""
        table.add_row(
            row.task.name, row.task.template, str(row.task.uses), _time(row.before),
            _time(row.after), gain, f"{shares[row.task.key]:.1%}", str(row.trials),
        )  # fmt: skip
    rest = [row for row in outcome.rows if not row.tuned]
    if rest:
        share = sum(shares[row.task.key] for row in rest)
        table.add_row(f"{len(rest)} others", "", *_uses(rest), "", "", "", f"{share:.1%}", "0")
    out.print(table)
    if outcome.after:
        factor = f"{outcome.before / outcome.after:.2f}x"
        out.print(
            f"kernels of a run: {seconds_text(outcome.before)} -> {seconds_text(outcome.after)} "
            f"({factor}), predicted from kernels"
        )
    last, paid = outcome.curve[-1], outcome.paid
    spent = f"{last.trials} trials in {seconds_text(last.elapsed)}"
    if last.seconds < outcome.curve[0].seconds:
        spent += (
            f"; 95 % of the gain was there after {paid.trials} trials, {seconds_text(paid.elapsed)}"
        )
    out.print(f"{spent}; stopped because {outcome.stop.value}")
    if outcome.failures:
        first = outcome.failures[0]
        out.print(
            f"{len(outcome.failures)} candidates failed; the first, "
            f"{shorten(first.knobs, 80)} of {first.task}: "
            f"{first.error.splitlines()[0] if first.error else 'no reason given'}"
        )


def _uses(rows: list[Row]) -> tuple[str]:
    return (str(sum(row.task.uses for row in rows)),)
