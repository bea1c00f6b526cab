"""What measures candidates: the agreement between the tuner and machines near and far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from optc.autotune.task import TuningTask
from optc.backends.tvm.templates.plan import Knobs


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds of one call, taken from `times`, one of each round; or the reason there are none."""

    seconds: float | None
    times: tuple[float, ...] = ()
    error: str = ""


class Measurer(Protocol):
    """A machine that kernels are tried on."""

    @property
    def machine(self) -> str:
        """What records say about where they were made."""
        ...

    def measure(self, task: TuningTask, knobs: Sequence[Knobs]) -> list[Measurement]:
        """One measurement for each setting, in order.

        A candidate that does not compile, crashes, hangs or computes something else than the others
        is a Measurement with an error: nothing is raised for it.
        """
        ...

    def close(self) -> None:
        """Let go of processes and connections."""
        ...
