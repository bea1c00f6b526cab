"""Workers that build: what they return, and what becomes of those that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path

import pytest

from optc.autotune.builders import LocalBuilders
from optc.autotune.builders_dask import DaskBuilders
from optc.autotune.builders_pool import WorkerPool, WorkFailed
from optc.autotune.device import open_builders
from optc.autotune.events import Budget
from optc.autotune.local import LocalMeasurer
from optc.autotune.records import Records, read
from optc.autotune.search import Exhaustive
from optc.autotune.session import tune
from optc.backends.kernel import Job, Kernel
from optc.backends.tvm.templates.plan import Knobs
from optc.ir.diagnostics import OptcError
from optc.ir.targets.detect import host
from optc.ir.targets.target import Target
from tests.autotune.trials import QUICK, gemm, task_of
from tests.autotune.works import die, die_once, double, fail, hang, slow_double


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    found = WorkerPool(2, timeout=30.0)
    yield found
    found.close()


def test_calls_are_answered(pool: WorkerPool) -> None:
    futures = [pool.submit(double, number) for number in range(20)]
    assert [future.result(30) for future in futures] == [2 * number for number in range(20)]
    assert len(pool.processes) <= 2


def test_an_exception_is_told_and_the_worker_lives(pool: WorkerPool) -> None:
    with pytest.raises(WorkFailed, match="ValueError: no such knob"):
        pool.submit(fail, "no such knob").result(30)
    assert pool.submit(double, 1).result(30) == 2


def test_a_call_that_kills_its_worker_fails_alone(pool: WorkerPool) -> None:
    futures = [pool.submit(double, 1), pool.submit(die), pool.submit(double, 2)]
    with pytest.raises(WorkFailed, match="died: killed by signal 11"):
        futures[1].result(30)
    assert [futures[0].result(30), futures[2].result(30)] == [2, 4]


def test_a_worker_that_somebody_kills_is_replaced(pool: WorkerPool, tmp_path: Path) -> None:
    assert pool.submit(die_once, str(tmp_path)).result(30) == "alive"


def test_a_call_that_hangs_is_given_up() -> None:
    pool = WorkerPool(1, timeout=3.0)
    hung, after = pool.submit(hang), pool.submit(double, 4)
    with pytest.raises(WorkFailed, match="no answer in 3 s"):
        hung.result(30)
    assert after.result(30) == 8
    pool.close()


def test_one_of_two_workers_is_killed_half_way(pool: WorkerPool) -> None:
    futures = [pool.submit(slow_double, number, 0.05) for number in range(40)]
    wait(futures[:10], 30)
    os.kill(victim := pool.processes[0], signal.SIGKILL)
    found = [future.result(30) for future in futures]
    assert [number for number, _ in found] == [2 * number for number in range(40)]
    assert victim not in {process for _, process in found[-10:]}


def test_closing_leaves_no_process_and_no_open_future() -> None:
    pool = WorkerPool(2, timeout=30.0)
    futures = [pool.submit(hang) for _ in range(4)]
    while len(pool.processes) < 2:
        time.sleep(0.01)
    processes = pool.processes
    pool.close()
    assert all(future.done() for future in futures)
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


def test_kernels_are_built_in_another_process() -> None:
    task = task_of(gemm(), target := host())
    builders = LocalBuilders(1)
    knobs = task.candidates[0]
    kernel = builders.submit(task.job, target, knobs).result(120)
    failed = builders.submit(task.job, target, "no knobs")
    with pytest.raises(WorkFailed):
        failed.result(120)
    builders.close()
    assert kernel.object.startswith(b"\x7fELF")
    assert kernel.template == task.template


class Assassin(LocalBuilders):
    """Kills one of its processes when half of the kernels are under way."""

    def __init__(self, workers: int, half: int) -> None:
        super().__init__(workers)
        self.half, self.submitted, self.killed = half, 0, 0

    def submit(self, job: Job, target: Target, knobs: Knobs) -> Future[Kernel]:
        future = super().submit(job, target, knobs)
        self.submitted += 1
        if self.submitted == self.half:
            future.add_done_callback(self.kill)
        return future

    def kill(self, _: Future[Kernel]) -> None:
        self.killed = self.pool.processes[-1]
        os.kill(self.killed, signal.SIGKILL)


def test_no_record_is_lost_and_none_is_made_twice(tmp_path: Path) -> None:
    task = task_of(gemm(), target := host())
    count = len(task.candidates)
    builders = Assassin(2, count // 2)
    measurer = LocalMeasurer(target, builders=builders, pace=QUICK)
    file = tmp_path / "records.jsonl"
    budget, records = Budget(trials=count), Records.open(file)
    tune([task], measurer, records, budget, lambda task: Exhaustive(task.candidates))
    measurer.close()
    assert builders.killed
    found = Records.open(file).of(task.key)
    assert {*found} == {repr(knobs) for knobs in task.candidates}
    assert [record.error for record in found.values()] == [""] * count
    # The tuner looks twice at the fastest, and says so in the record.
    first = [record.knobs for record in read(file) if record.runs == 1]
    assert sorted(first) == sorted(found)


@pytest.mark.needs("package:distributed")
def test_a_dask_cluster_survives_a_worker_that_is_killed() -> None:
    from distributed import LocalCluster

    task = task_of(gemm(), target := host())
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        builders = DaskBuilders(cluster.scheduler_address)
        futures = [builders.submit(task.job, target, knobs) for knobs in task.candidates]
        wait(futures[:2], 120)
        os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
        kernels = [future.result(120) for future in futures]
        builders.close()
    names = [repr(knobs) for knobs in task.candidates]
    assert [kernel.knobs for kernel in kernels] == names


@pytest.mark.needs("package:distributed")
def test_a_cluster_that_does_not_answer_is_named() -> None:
    with pytest.raises(OptcError, match=r"tcp://127.0.0.1:1"):
        DaskBuilders("tcp://127.0.0.1:1", patience=0.5)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "host:8786"])
def test_workers_that_are_misspelt(text: str) -> None:
    with pytest.raises(OptcError, match="E0737"):
        open_builders(text)
