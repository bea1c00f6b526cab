"""Functions that worker processes call by name in tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def double(number: int) -> int:
    return 2 * number


def slow_double(number: int, seconds: float) -> tuple[int, int]:
    """Also says in which process."""
    time.sleep(seconds)
    return 2 * number, os.getpid()


def fail(text: str) -> None:
    raise ValueError(text)


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def die_once(folder: str) -> str:
    """Ends its process the first time it is called."""
    if not (mark := Path(folder) / "mark").exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def hang() -> None:
    time.sleep(1000)
