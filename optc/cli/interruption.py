"""Ctrl-C and SIGTERM: raised where the program stands, and again at the next step if that was lost.

An exception that a signal raises inside a library's callback may be swallowed there.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType

_seen: list[type[BaseException]] = []


class Terminated(BaseException):
    """SIGTERM: unwinds, so that what lies aside is removed."""


def watch() -> None:
    """Take the signals over, unless they are ignored or the program around us owns them."""
    _seen.clear()
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _raise)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _raise)


def check() -> None:
    """Raise what a signal raised before, and somebody swallowed."""
    if _seen:
        raise _seen[-1]


def _raise(number: int, frame: FrameType | None) -> None:
    _seen.append(KeyboardInterrupt if number == signal.SIGINT else Terminated)
    raise _seen[-1]
