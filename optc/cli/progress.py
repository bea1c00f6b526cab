"""Progress of a compilation: two lines at a terminal, plain lines elsewhere; all on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.text import Text

from optc.cli.interruption import check
from optc.cli.terminal import console
from optc.report.numbers import seconds_text

PLAIN_EVERY = 15.0  # seconds between two plain lines of one stage
BAR = 30  # columns


class Progress:
    """Shows which stage runs, how far it is, elapsed time and an estimate of what is left of it."""

    def __init__(self) -> None:
        self.console = console(stderr=True)
        self.begin = self.stage_begin = self.spoken = time.perf_counter()
        self.stage, self.done, self.total = "", 0, 0
        self.finished: list[str] = []
        self.live = Live(
            get_renderable=self._lines, console=self.console, transient=True, refresh_per_second=4
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note: `stage` has done `done` of `total` pieces (0 of 0: no pieces)."""
        check()
        now = time.perf_counter()
        if stage != self.stage:
            if self.stage:
                self.finished.append(f"{self.stage} {seconds_text(now - self.stage_begin)}")
            self.stage, self.stage_begin, self.spoken = stage, now, now
            self._say(f"{stage} ...")
        self.done, self.total = done, total
        if total and now - self.spoken > PLAIN_EVERY:
            self.spoken = now
            self._say(f"{stage} {done}/{total}, {self._times(now)}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Give the terminal to something that shows its own progress."""
        self.live.stop()
        yield
        if self.console.is_terminal:
            self.live.start()

    def _say(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text)

    def _times(self, now: float) -> str:
        text = f"elapsed {seconds_text(now - self.begin)}"
        if not self.total or not self.done:
            return text
        left = (now - self.stage_begin) * (self.total - self.done) / self.done
        return f"{text}, about {seconds_text(left)} left of this stage"

    def _lines(self) -> Text:
        now = time.perf_counter()
        filled = BAR * self.done // self.total if self.total else 0
        bar = (
            f" {'━' * filled}{'╌' * (BAR - filled)} {self.done}/{self.total}" if self.total else ""
        )
        done = " · ".join(self.finished)
        return Text(
            f"{self.stage}{bar}\n{self._times(now)}{f' · {done}' if done else ''}",
            overflow="ellipsis",
        )
