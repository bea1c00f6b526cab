"""Times contenders in turns, each in a process that is stopped while another is timed.

Thread pools spin for a while after a call: a peer that merely waits would take a core from the one
being timed. The order rotates, because whoever follows a heavy one finds a warmer chip; the first
calls after a wake-up are dropped, because caches and pools are cold.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers.contender import Job, environment

ROOT = Path(__file__).parents[2]


def command(name: str, job: Job) -> tuple[str, ...]:
    """The worker's command line."""
    what = (name, job.model, job.target, str(job.threads), str(job.folder.resolve()))
    return (sys.executable, "-m", "benchmarks.peers.worker", *what)


def prepare(name: str, job: Job, log: Path) -> str:
    """Prepare a model for a contender in a process of its own; what went wrong, or nothing."""
    with log.open("wb") as errors:
        done = subprocess.run(
            (*command(name, job), "--prepare"),
            check=False, cwd=ROOT, env=environment(job), stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    if not lines:
        return f"ended with {done.returncode}"
    return str(json.loads(lines[-1]).get("problem", ""))


@dataclass
class Runner:
    """A contender's process, asleep unless it is asked something."""

    name: str
    process: subprocess.Popen[str]
    version: str = ""
    problem: str = ""
    rounds: list[list[float]] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, job: Job, log: Path) -> Runner:
        """Begin to open the model; `wait` says when it is done."""
        process = subprocess.Popen(
            command(name, job),
            cwd=ROOT, env=environment(job), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("wb"),
        )  # fmt: skip
        return cls(name, process)

    def wait(self) -> None:
        """Until it is ready, then stop it."""
        answer = self._answer()
        self.version = answer.get("version", "")
        self._sleep()

    def ask(self, what: Mapping[str, Any]) -> dict[str, Any]:
        """Wake it, ask, stop it; what it answered, which is nothing once it had a problem."""
        if self.problem or self.process.stdin is None:
            return {}
        os.kill(self.process.pid, signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it is dead: the answer will say so
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        answer = self._answer()
        self._sleep()
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"problem": f"ended with {self.process.wait()}"}
        self.problem = answer.get("problem", "")
        return dict(answer)

    def _sleep(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGSTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()


def rotations(count: int, rounds: int) -> Iterator[tuple[int, ...]]:
    """Orders in which everyone is first, second, ... about equally often, both ways round."""
    for turn in range(rounds):
        order = [(turn // 2 + place) % count for place in range(count)]
        yield tuple(order if turn % 2 == 0 else reversed(order))


def time_all(runners: Sequence[Runner], rounds: int, seconds: float, drop: int) -> None:
    """`rounds` rounds of `seconds` each for everyone, at least three calls a round."""
    what = {"do": "time", "seconds": seconds, "drop": drop, "least": 3}
    for order in rotations(len(runners), rounds):
        for index in order:
            times = runners[index].ask(what).get("times")
            if times:
                runners[index].rounds.append(times)
