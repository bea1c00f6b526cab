"""A few lines that renew themselves at a terminal, and plain lines where there is none."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.text import Text

from optc.cli.terminal import console

PLAIN_EVERY = 15.0  # seconds between two plain lines that say much the same
BAR = 30  # columns


class LiveText:
    """Shows `lines()` on stderr while its block runs; subclasses say what.

    `lines` is asked as soon as this is made: subclasses set what it reads before.
    """

    def __init__(self) -> None:
        self.console = console(stderr=True)
        self.begin = self.spoken = time.perf_counter()
        self.live = Live(
            get_renderable=self.lines, console=self.console, transient=True, refresh_per_second=4
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

    def lines(self) -> Text:
        """What a terminal shows now."""
        raise NotImplementedError


def bar(done: int, total: int) -> str:
    """A bar that is full when all is done."""
    filled = min(BAR, BAR * done // total)
    return f"{'━' * filled}{'╌' * (BAR - filled)}"
