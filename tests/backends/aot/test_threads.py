"""Many threads, many instances, one pool: every task runs once and every result is right."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optc.backends.aot.header import RUNTIME
from optc.backends.aot.package import write_artifact
from optc.backends.program import Call, Operand, Port, Program, RunSegment, Segment, Space
from optc.ir.dtype import DType
from optc.runtime import Artifact, load

HERE = Path(__file__).parent
BIAS = np.arange(1024, dtype=np.float32)


@pytest.fixture(scope="module")
def artifact(adder_folder: Path) -> Artifact:
    """With more threads than most machines have cores."""
    return load(adder_folder, threads=5)


def calls(artifact: Artifact, seed: int, count: int) -> int:
    """Run with inputs of its own and count the wrong results."""
    x = np.full(1024, seed, np.float32)
    return sum(not np.array_equal(artifact(x), 2 * (x + BIAS)) for _ in range(count))


def test_one_instance_called_from_many_threads(artifact: Artifact) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda seed: calls(artifact, seed, 100), range(8))) == 0


def test_many_instances_at_the_same_time(artifact: Artifact) -> None:
    instances = [artifact.another() for _ in range(6)]
    for number, instance in enumerate(instances):
        instance.set_threads(number)
    with ThreadPoolExecutor(6) as pool:
        wrong = pool.map(lambda pair: calls(pair[1], pair[0], 150), enumerate(instances))
        assert sum(wrong) == 0


def test_instances_come_and_go_while_others_run(adder_folder: Path) -> None:
    def live(seed: int) -> int:
        wrong = 0
        for turn in range(15):
            with load(adder_folder, threads=random.Random(seed + turn).randint(1, 6)) as one:
                wrong += calls(one, seed, 10)
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(live, range(4))) == 0


@pytest.fixture(scope="module")
def marker(adder: Program, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Kernels that note which tasks ran, and in how many pieces."""
    program = replace(
        adder,
        inputs=(),
        outputs=(Port("fixed", (64,), DType.I32), Port("free", (1024,), DType.I32)),
        segments=(
            Segment(
                "main",
                (
                    Call("k_tasks", (Operand(Space.OUTPUT, 0),)),
                    Call("k_decide", (Operand(Space.OUTPUT, 1),)),
                ),
            ),
        ),
        flow=(RunSegment("main"),),
        arena_bytes=0,
        weights=(),
    )
    return load(write_artifact(program, tmp_path_factory.mktemp("m") / "out", cache=cache).path)


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 40, 256, 1000])
def test_each_task_runs_exactly_once(marker: Artifact, threads: int) -> None:
    marker.set_threads(threads)
    for _ in range(20):
        fixed, free = marker()
        assert fixed[:37].tolist() == [37000 + task for task in range(37)]
        assert not fixed[37:].any()
        count = min(threads, 256)
        assert free[:count].tolist() == [1000 * count + task for task in range(count)]
        assert not free[count:].any()


def test_the_child_of_a_fork_has_a_pool_of_its_own(artifact: Artifact) -> None:
    assert calls(artifact, 1, 5) == 0  # the workers of this process are running now
    child = os.fork()
    if child == 0:
        os._exit(calls(artifact.another(), 2, 20))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert calls(artifact, 3, 5) == 0


def test_the_pool_has_no_data_race(tmp_path: Path) -> None:
    """ThreadSanitizer watches the pool while threads of several sizes launch, nest and collide."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc's ThreadSanitizer")
    sources = [HERE / "pool_stress.c", *sorted(RUNTIME.glob("*.c"))]
    command = ["gcc", "-std=c11", "-O1", "-g", "-fsanitize=thread", f"-I{RUNTIME}"]
    built = subprocess.run(
        [*command, *map(str, sources), "-o", "stress", "-lpthread"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "tsan" in built.stderr:
        pytest.skip("gcc's ThreadSanitizer is not installed")
    assert built.returncode == 0, built.stderr
    # Address space randomisation beyond what ThreadSanitizer can map makes it refuse to start.
    prefix = ("setarch", "-R") if shutil.which("setarch") else ()
    done = subprocess.run(
        (*prefix, "./stress"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer cannot map its memory here")
    assert done.returncode == 0, done.stderr[-4000:]
