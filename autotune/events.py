"""What a session is given to spend, what it says while it runs, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from optc.autotune.records import Record

if TYPE_CHECKING:  # tasks come with tvm, which those who only watch do not need
    from optc.autotune.task import TuningTask


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop; whichever comes first.

    `trials` are candidates beside the best guesses, with those that the records hold already;
    `seconds` of this session; `until` the kernels of one run are predicted to take so many seconds.
    """

    trials: int | None = None
    seconds: float | None = None
    until: float | None = None


class Stop(Enum):
    """Why a session ended."""

    TRIALS = "the number of trials is reached"
    SECONDS = "the time is up"
    UNTIL = "the model is as fast as asked for"
    EXHAUSTED = "there is nothing left to try"


@dataclass(frozen=True, slots=True)
class Guessed:
    """Best guess number `done` of `total` was measured."""

    task: TuningTask
    seconds: float | None
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Widening:
    """Schedules are searched for a task that has one candidate; the first time takes a while."""

    task: TuningTask


@dataclass(frozen=True, slots=True)
class Planned:
    """The best guesses are known: what will be tuned, and how long a run takes."""

    tuned: tuple[TuningTask, ...]
    trivial: tuple[TuningTask, ...]
    seconds: float
    known: int  # trials that the records hold already


@dataclass(frozen=True, slots=True)
class Trying:
    """A batch of `count` candidates of a task is about to be measured."""

    task: TuningTask
    count: int
    best: float | None


@dataclass(frozen=True, slots=True)
class Tried:
    """A batch was measured and recorded. `trials` and `seconds` are those of the whole model."""

    task: TuningTask
    count: int
    failed: int
    before: float | None
    best: float | None
    trials: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a task: seconds of one call before and after, trials in all sessions."""

    task: TuningTask
    before: float | None
    after: float | None
    trials: int
    tuned: bool


@dataclass(frozen=True, slots=True)
class Point:
    """The predicted run time after so many trials of this session."""

    trials: int
    elapsed: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A finished session: `curve` begins with the best guesses, or with what records knew."""

    stop: Stop
    rows: tuple[Row, ...]
    curve: tuple[Point, ...]
    failures: tuple[Record, ...]

    @property
    def before(self) -> float:
        """Seconds of a run with best guesses, as predicted from kernels."""
        return sum(row.task.uses * (row.before or 0.0) for row in self.rows)

    @property
    def after(self) -> float:
        """Seconds of a run with the fastest candidates, as predicted from kernels."""
        return sum(row.task.uses * (row.after or 0.0) for row in self.rows)

    @property
    def paid(self) -> Point:
        """The first point of the curve with 95 % of the whole gain: where it stopped paying."""
        first, last = self.curve[0], self.curve[-1]
        enough = first.seconds - 0.95 * (first.seconds - last.seconds)
        return next(point for point in self.curve if point.seconds <= enough)


Event = Guessed | Widening | Planned | Trying | Tried
