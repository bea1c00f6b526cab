"""Progress of a compilation: two lines at a terminal, plain lines elsewhere; all on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.text import Text

from optc.cli.interruption import check
from optc.cli.live import PLAIN_EVERY, LiveText, bar
from optc.report.numbers import seconds_text


class Progress(LiveText):
    """Shows which stage runs, how far it is, elapsed time and an estimate of what is left of it."""

    def __init__(self) -> None:
        self.stage, self.done, self.total = "", 0, 0
        self.finished: list[str] = []
        super().__init__()
        self.stage_begin = self.begin

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

    def lines(self) -> Text:
        """The stage, its bar, the times."""
        now = time.perf_counter()
        shown = f" {bar(self.done, self.total)} {self.done}/{self.total}" if self.total else ""
        done = " · ".join(self.finished)
        return Text(
            f"{self.stage}{shown}\n{self._times(now)}{f' · {done}' if done else ''}",
            overflow="ellipsis",
        )
