"""What the measuring program has written, also when it was cut short; `measure.c` says how."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from optc.backends.program import Port

_HEAD = struct.Struct("=ci")
_TIME = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Exit:
    """How the measuring program ended: `code` as in Python's subprocess, or None for a hang.

    `answer` is what it wrote before, `complaint` what it had to say about it. A hang is `patience`
    seconds without a sign of life.
    """

    code: int | None
    answer: bytes
    complaint: str = ""
    patience: float = 0.0

    @property
    def reason(self) -> str:
        """What went wrong, for people; empty when nothing did."""
        if self.code is None:
            return f"no answer in {self.patience:g} s"
        if self.code < 0:
            return f"killed by signal {-self.code}"
        return (self.complaint or f"exit status {self.code}") if self.code else ""


@dataclass
class Answer:
    """The entries of an answer by candidate; `running` is the one that was called last."""

    outputs: dict[int, bytes] = field(default_factory=dict)
    seconds: dict[int, list[float]] = field(default_factory=dict)
    running: int | None = None
    finished: bool = False


def read_answer(data: bytes, ports: Sequence[Port]) -> Answer:
    """Take an answer apart; what does not belong there, or is cut off, ends it."""
    answer, at, nbytes = Answer(), 0, sum(port.nbytes for port in ports)
    while at + _HEAD.size <= len(data) and not answer.finished:
        kind, candidate = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        match kind:
            case b"B":
                answer.running = candidate
            case b"O" if at + nbytes <= len(data):
                answer.outputs[candidate] = data[at : at + nbytes]
                at += nbytes
            case b"T" if at + _TIME.size <= len(data):
                (nanoseconds,) = _TIME.unpack_from(data, at)
                answer.seconds.setdefault(candidate, []).append(nanoseconds * 1e-9)
                at += _TIME.size
            case b"E":
                answer.finished = True
            case _:
                break
    return answer
