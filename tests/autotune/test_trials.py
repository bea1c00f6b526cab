"""Candidates are measured beside each other; those that misbehave harm nobody else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from optc.autotune.local import LocalMeasurer, LocalRunner
from optc.autotune.measurer import Measurement
from optc.autotune.measurer_trials import WRONG as COMPUTES_WRONG
from optc.autotune.measurer_trials import TrialMeasurer
from optc.autotune.trial_answer import Exit
from optc.backends.tvm.templates.plan import Knobs
from optc.ir.graph import Graph
from optc.ir.targets.detect import host
from optc.ir.targets.find import find_target
from optc.ir.targets.target import MemorySpace
from tests.autotune import trials
from tests.autotune.trials import QUICK, Bad, FakeBuilders, conv, gemm, task_of

TARGET = host()
TASK = task_of(gemm(), TARGET)
GOOD = TASK.candidates[:3]


@pytest.fixture(scope="module")
def measurer() -> Iterator[LocalMeasurer]:
    found = LocalMeasurer(TARGET, builders=FakeBuilders(), pace=QUICK)
    yield found
    found.close()


def ran(found: Sequence[Measurement]) -> list[bool]:
    return [m.seconds is not None and not m.error and len(m.times) >= 5 for m in found]


@pytest.mark.parametrize("body", [gemm(), gemm(1, 40, 30), conv()], ids=["gemm", "gemv", "conv"])
def test_candidates_of_real_tasks_are_timed(measurer: LocalMeasurer, body: Graph) -> None:
    task = task_of(body, TARGET)
    found = measurer.measure(task, task.candidates[:3])
    assert [m.error for m in found] == [""] * len(found)
    assert all(ran(found))
    assert all(min(m.times) <= (m.seconds or 0) <= max(m.times) < 1 for m in found)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (trials.SEGFAULT, "killed by signal 11"),
        (trials.LATE, "killed by signal 11"),
        (trials.ENDLESS, "no answer in 1 s"),
        (trials.STATUS, "kernel bad_"),
        (trials.WRONG, COMPUTES_WRONG),
        (trials.SILENT, COMPUTES_WRONG),
        (trials.UNLINKABLE, "does not link: "),
        (trials.UNBUILDABLE, "does not build: LLVM ERROR: out of registers"),
    ],
    ids=["segfault", "late", "endless", "status", "wrong", "silent", "unlinkable", "unbuildable"],
)
def test_a_bad_candidate_fails_alone(bad: Bad, error: str) -> None:
    pace = replace(QUICK, patience=1.0)
    measurer = LocalMeasurer(TARGET, builders=FakeBuilders(), pace=pace)
    found = measurer.measure(TASK, [GOOD[0], bad, *GOOD[1:]])
    measurer.close()
    assert ran(found) == [True, False, True, True]
    assert found[1].error.startswith(error)
    assert found[1].seconds is None


def test_bad_candidates_are_told_apart(measurer: LocalMeasurer) -> None:
    knobs: list[Knobs] = [trials.SEGFAULT, GOOD[0], trials.STATUS, trials.WRONG, *GOOD[1:]]
    assert ran(measurer.measure(TASK, knobs)) == [False, True, False, False, True, True]


def test_a_bad_candidate_alone(measurer: LocalMeasurer) -> None:
    (found,) = measurer.measure(TASK, [trials.SEGFAULT])
    assert found == Measurement(None, (), "killed by signal 11")


def test_nothing_to_measure(measurer: LocalMeasurer) -> None:
    assert measurer.measure(TASK, []) == []


def test_memory_bounds_how_many_share_a_trial() -> None:
    pace = replace(QUICK, memory=1)
    measurer = LocalMeasurer(TARGET, builders=FakeBuilders(), pace=pace)
    found = measurer.measure(TASK, [*GOOD, trials.WRONG])
    measurer.close()
    assert ran(found) == [True, True, True, False]  # outputs are compared across trials


@dataclass
class Listener(LocalRunner):
    """Notes how many bytes are read between calls."""

    prefix: tuple[str, ...] = ()
    flushes: list[int] = field(default_factory=list)

    def run(self, folder: Path, arguments: Sequence[str], patience: float) -> Exit:
        self.flushes.append(int(arguments[3]))
        return super().run(folder, arguments, patience)


@pytest.mark.parametrize(
    ("columns", "cold", "flushed"),
    [(32, None, False), (2048, None, True), (2048, False, False), (32, True, True)],
)
def test_large_weights_are_read_from_memory(columns: int, cold: bool | None, flushed: bool) -> None:
    space = MemorySpace("l2", 100_000), MemorySpace("l3", 1_000_000), MemorySpace("dram", 1 << 30)
    target = replace(TARGET, memory=space)
    task, runner = task_of(gemm(1, columns, 64), target), Listener()
    pace = replace(QUICK, cold=cold)
    measurer = TrialMeasurer(target, "here", FakeBuilders(), runner, pace)
    found = measurer.measure(task, task.candidates[:2])
    measurer.close()
    assert all(ran(found))
    assert all((nbytes > 1_000_000) is flushed for nbytes in runner.flushes)


def test_closing_ends_the_builders() -> None:
    builders = FakeBuilders()
    LocalMeasurer(TARGET, builders=builders).close()
    assert builders.closed


@pytest.mark.skipif(not shutil.which("qemu-aarch64-static"), reason="needs qemu-user-static")
def test_another_machine_under_an_emulator() -> None:
    target = replace(find_target("aarch64"), triple="aarch64-linux-musl")
    task = task_of(gemm(), target)
    prefix = ("qemu-aarch64-static", "-cpu", "max")
    measurer = LocalMeasurer(target, prefix=prefix, builders=FakeBuilders(), pace=QUICK)
    found = measurer.measure(task, [task.candidates[0], trials.SEGFAULT, trials.WRONG])
    measurer.close()
    assert ran(found) == [True, False, False]
    assert found[1].error == "killed by signal 11"
    assert measurer.machine.startswith("qemu-aarch64-static on ")
