"""Measures candidates by trials: build, link, run apart from us, blame, compare, time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from optc.autotune.builders import Builders
from optc.autotune.measurer import Measurement
from optc.autotune.task import TuningTask
from optc.autotune.trial import Trial, trial_of
from optc.autotune.trial_answer import Answer, Exit, read_answer
from optc.autotune.trial_compare import Agreement
from optc.autotune.trial_image import write_image
from optc.autotune.trial_noise import seconds_of
from optc.backends.kernel import Kernel
from optc.backends.tvm.templates.plan import Knobs
from optc.ir.diagnostics import InternalError
from optc.ir.targets.target import Target

COLD_SHARE = 3  # as much time where most of it goes into emptying caches
WRONG = "computes something else than the other candidates"


class Runner(Protocol):
    """Runs the measuring program in a folder that holds a trial's files, here or elsewhere."""

    def run(self, folder: Path, arguments: Sequence[str], patience: float) -> Exit:
        """Run to its end, or until nothing was heard of it for `patience` seconds."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure.

    `seconds` of timing for each candidate, in at most `rounds` rounds; `patience` seconds without
    a sign of life are a hang. Weights and outputs of the candidates of one trial stay below
    `memory` bytes each. `cold` empties the caches before each call; None does so for tasks
    whose weights are larger than the second-level cache: in a model they come from memory each
    time, while small ones, and the outputs of the kernel before, are still in a cache.
    """

    seconds: float = 0.06
    rounds: int = 400
    patience: float = 10.0
    memory: int = 1 << 28
    cold: bool | None = None


@dataclass
class _Outcome:
    """What came of the candidates of one task, by their number."""

    errors: dict[int, str]
    times: dict[int, list[float]]
    seconds: dict[int, float]


class TrialMeasurer:
    """Candidates of a task side by side in one program, on the machine of `runner`.

    Candidates take turns within a trial; those of one `measure` call are one trial unless memory
    forbids. A candidate that ends the program is tried alone, and when it does so again it is to
    blame and the others start over without it; otherwise the trial is halved. `cache` keeps the
    compiled runtime from session to session.
    """

    def __init__(
        self,
        target: Target,
        machine: str,
        builders: Builders,
        runner: Runner,
        pace: Pace,
        cache: Path | None = None,
    ) -> None:
        self.target = target
        self.pace = pace
        self._machine = machine
        self._builders = builders
        self._runner = runner
        self._folder = tempfile.TemporaryDirectory(prefix="optc-trials-")
        self._cache = cache or Path(self._folder.name) / "cache"

    @property
    def machine(self) -> str:
        """What records say about where they were made."""
        return self._machine

    def close(self) -> None:
        """End workers and connections, remove what lies on disk."""
        self._builders.close()
        self._runner.close()
        self._folder.cleanup()

    def measure(self, task: TuningTask, knobs: Sequence[Knobs]) -> list[Measurement]:
        """One measurement for each setting, in order; see `Measurer`."""
        outcome = _Outcome({}, {}, {})
        kernels = self._build(task, knobs, outcome)
        agreement = Agreement(trial_of(task.job, (), self.target).outputs)
        for chunk in self._chunks(task, kernels):
            self._try(task, chunk, agreement, outcome)
        for number in agreement.wrong():
            outcome.errors.setdefault(number, WRONG)
        return [_measurement(number, outcome) for number in range(len(knobs))]

    def _build(
        self, task: TuningTask, knobs: Sequence[Knobs], outcome: _Outcome
    ) -> dict[int, Kernel]:
        futures = [self._builders.submit(task.job, self.target, each) for each in knobs]
        kernels = {}
        for number, future in enumerate(futures):
            try:
                kernel = future.result()
            except Exception as problem:
                text = str(problem).strip() or type(problem).__name__
                outcome.errors[number] = f"does not build: {text.splitlines()[0][:300]}"
                continue
            if kernel.launches:
                outcome.errors[number] = "kernels of a GPU are not measured"
                continue
            kernels[number] = kernel
        return kernels

    def _chunks(
        self, task: TuningTask, kernels: Mapping[int, Kernel]
    ) -> Iterator[dict[int, Kernel]]:
        """As many candidates at a time as memory allows, each with weights of its own layout."""
        largest = max(_weights_bytes(task), _outputs_bytes(task), 1)
        size = max(1, self.pace.memory // largest)
        numbers = list(kernels)
        for start in range(0, len(numbers), size):
            yield {number: kernels[number] for number in numbers[start : start + size]}

    def _try(
        self,
        task: TuningTask,
        kernels: Mapping[int, Kernel],
        agreement: Agreement,
        outcome: _Outcome,
    ) -> None:
        """Run candidates together; find those to blame when that fails."""
        left = dict(kernels)
        while left:
            trial = trial_of(task.job, list(left.values()), self.target)
            with tempfile.TemporaryDirectory(dir=self._folder.name) as name:
                suspect = self._settle(task, trial, Path(name), left, agreement, outcome)
            if suspect is None:
                return
            if suspect >= 0:
                del left[suspect]
                continue
            numbers = list(left)
            for half in (numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]):
                self._try(task, {n: left[n] for n in half}, agreement, outcome)
            return

    def _settle(
        self,
        task: TuningTask,
        trial: Trial,
        folder: Path,
        left: Mapping[int, Kernel],
        agreement: Agreement,
        outcome: _Outcome,
    ) -> int | None:
        """One trial: None when all candidates are settled, else the one to blame, -1 if unclear."""
        numbers = list(left)
        try:
            write_image(trial, folder, self._cache)
        except InternalError as problem:
            if len(numbers) > 1:
                return -1
            outcome.errors[numbers[0]] = f"does not link: {str(problem).splitlines()[-1][:300]}"
            return None
        places = range(len(numbers))
        exit, answer = self._run(task, trial, folder, places)
        if not exit.reason and answer.finished:
            _keep(numbers, answer, agreement, outcome)
            return None
        reason = exit.reason or "the answer is cut short"
        if len(numbers) > 1:
            suspect = -1 if answer.running is None else answer.running
            if suspect not in places:
                return -1
            exit, _ = self._run(task, trial, folder, (suspect,))
            if not exit.reason:
                return -1
            outcome.errors[numbers[suspect]] = exit.reason
            return numbers[suspect]
        outcome.errors[numbers[0]] = reason
        return None

    def _run(
        self, task: TuningTask, trial: Trial, folder: Path, candidates: Sequence[int]
    ) -> tuple[Exit, Answer]:
        pace = self.pace
        cold = pace.cold
        if cold is None:
            cold = _weights_bytes(task) > self.target.cache("l2", 1 << 20)
        caches = (space.size for space in self.target.memory if space.name != "dram")
        flush = max(caches, default=1 << 25) * 5 // 4 if cold else 0
        budget = 1e3 * pace.seconds * len(candidates) * (COLD_SHARE if cold else 1)
        arguments = (str(self.target.cores), f"{budget:.0f}", str(pace.rounds), str(flush))
        exit = self._runner.run(folder, (*arguments, *map(str, candidates)), pace.patience)
        return exit, read_answer(exit.answer, trial.outputs)


def _keep(numbers: Sequence[int], answer: Answer, agreement: Agreement, outcome: _Outcome) -> None:
    rows = [answer.seconds.get(place, []) for place in range(len(numbers))]
    for place, seconds in enumerate(seconds_of(rows)):
        number = numbers[place]
        outcome.times[number] = rows[place]
        if seconds is not None:
            outcome.seconds[number] = seconds
        agreement.add(number, answer.outputs.get(place, b""))


def _measurement(number: int, outcome: _Outcome) -> Measurement:
    if number in outcome.errors:
        return Measurement(None, (), outcome.errors[number])
    if number not in outcome.seconds:
        return Measurement(None, (), "no time was taken")
    return Measurement(outcome.seconds[number], tuple(outcome.times[number]))


def _weights_bytes(task: TuningTask) -> int:
    inputs = task.job.body.inputs
    return sum(inputs[i].type.nbytes for i in task.job.constants)


def _outputs_bytes(task: TuningTask) -> int:
    return sum(value.type.nbytes for value in task.job.body.outputs)
