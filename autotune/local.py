"""Measures on this machine, or under an emulator that runs on it."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from optc.autotune.builders import Builders, LocalBuilders
from optc.autotune.measurer_trials import Pace, TrialMeasurer
from optc.autotune.trial_answer import Exit
from optc.autotune.trial_image import INPUT, PROGRAM
from optc.ir.targets.target import Target

GLANCE = 0.1  # seconds between two looks: each may take a core from what is being timed


class LocalRunner:
    """Runs the measuring program here, behind `prefix`: an emulator, `taskset`, `nice`.

    It writes to a file, not to a pipe: a reader that wakes up for each entry would disturb the
    kernel that is being timed.
    """

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self.prefix = tuple(prefix)

    def run(self, folder: Path, arguments: Sequence[str], patience: float) -> Exit:
        """Run to its end, or until its answer has not grown for `patience` seconds."""
        command = (*self.prefix, f"./{PROGRAM}", ".", *arguments)
        answer, complaint = folder / "answer", folder / "complaint"
        with (
            (folder / INPUT).open("rb") as source,
            answer.open("wb") as out,
            complaint.open("wb") as err,
            subprocess.Popen(
                command, cwd=folder, stdin=source, stdout=out, stderr=err, start_new_session=True
            ) as process,
        ):
            try:
                code = _watch(process, answer, patience)
            finally:
                process.kill()
        text = complaint.read_text(errors="replace").strip()
        return Exit(code, answer.read_bytes(), text[-500:], patience)

    def close(self) -> None:
        """Nothing is held."""


def _watch(process: subprocess.Popen[bytes], answer: Path, patience: float) -> int | None:
    """The exit status; None when the answer has stopped growing."""
    size, since = -1, time.monotonic()
    while True:
        try:
            return process.wait(GLANCE)
        except subprocess.TimeoutExpired:
            now, grown = time.monotonic(), answer.stat().st_size
            if grown != size:
                size, since = grown, now
            elif now - since > patience:
                return None


class LocalMeasurer(TrialMeasurer):
    """This machine; `prefix` runs the programs of another one under an emulator.

    `workers` processes build kernels (default: one for each core), unless `builders` do.
    """

    def __init__(
        self,
        target: Target,
        workers: int | None = None,
        *,
        prefix: Sequence[str] = (),
        builders: Builders | None = None,
        pace: Pace | None = None,
        cache: Path | None = None,
    ) -> None:
        where = f"{platform.node()}: {target.description or target.cpu}"
        machine = f"{prefix[0]} on {where}" if prefix else where
        builders = builders or LocalBuilders(workers)
        super().__init__(target, machine, builders, LocalRunner(prefix), pace or Pace(), cache)
