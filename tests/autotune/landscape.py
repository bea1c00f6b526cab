"""Tasks and a machine made up for tests: the time of a candidate is a known function."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from optc.autotune.measurer import Measurement
from optc.autotune.task import TuningTask
from optc.ir.cost import Cost

Seconds = Callable[[str, "Tile"], float | None]  # of a task's candidate; None: it fails


@dataclass(frozen=True, slots=True)
class Tile:
    """Two knobs."""

    rows: int
    columns: int


@dataclass(frozen=True)
class Grid:
    """A plan of so many rows and columns; the best guess is in a corner."""

    rows: int = 8
    columns: int = 8
    template: str = "grid/1"

    def candidates(self) -> Sequence[Tile]:
        return [Tile(r, c) for r in range(self.rows) for c in range(self.columns)]

    def emit(self, symbol: str, knobs: Any) -> Any:
        raise AssertionError("nothing is compiled here")


def made_up(name: str, uses: int = 1, plan: Grid = Grid()) -> TuningTask:
    job: Any = None
    return TuningTask(f"key of {name}", name, job, plan, uses, Cost(100, 10, 10))


def bowl(name: str, knobs: Tile) -> float:
    """Smooth, with its only minimum of 1 ms at (5, 6)."""
    return 1e-3 * (1 + 0.1 * abs(knobs.rows - 5) + 0.1 * abs(knobs.columns - 6))


@dataclass
class Machine:
    """A measurer that answers from a function and remembers what it was asked."""

    seconds: Seconds = bowl
    drift: Callable[[int], float] = lambda call: 1.0  # factor of all times of one call
    pause: float = 0.0
    asked: list[tuple[str, Tile]] = field(default_factory=list)
    calls: int = 0
    closed: bool = False
    machine: str = "made up"

    def measure(self, task: TuningTask, knobs: Sequence[Any]) -> list[Measurement]:
        self.calls += 1
        found = []
        for one in knobs:
            time.sleep(self.pause)
            self.asked.append((task.name, one))
            taken = self.seconds(task.name, one)
            if taken is None:
                found.append(Measurement(None, error="it crashed"))
            else:
                taken *= self.drift(self.calls)
                found.append(Measurement(taken, (taken, taken)))
        return found

    def close(self) -> None:
        self.closed = True


@dataclass
class Clock:
    """Time that passes only when a machine works, so that no test waits."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now
