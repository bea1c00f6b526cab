"""What the runtime itself costs: a call, a fork-join, loading, and bytes.

    python benchmarks/runtime_overhead.py

Times are the fastest and the median of many runs; on a busy machine only the fastest means much.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from optc.backends.aot.build import Emit
from optc.backends.aot.link import find_toolchain
from optc.backends.aot.package import write_artifact
from optc.backends.program import (
    Call,
    Operand,
    Port,
    Program,
    RunSegment,
    Segment,
    Space,
    place_weights,
)
from optc.ir.dtype import DType
from optc.runtime import Artifact, load

KERNELS = """
#define _GNU_SOURCE
#include <stdint.h>
#include <time.h>
typedef struct { void *handle; int32_t num_task; } parallel_env;
typedef int (*parallel_body)(int, parallel_env *, void *);
__attribute__((weak)) int (*__TVMBackendParallelLaunch)(parallel_body, void *, int);

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int work(int task, parallel_env *env, void *data)
{
    (void)task, (void)env;
    for (int64_t end = now() + (intptr_t)data; now() < end;) {}
    return 0;
}

static int nothing(int task, parallel_env *env, void *data)
{
    (void)task, (void)env, (void)data;
    return 0;
}

int32_t k_move(void *x, void *y) { *(float *)y = *(float *)x; return 0; }
int32_t k_fork(void) { return __TVMBackendParallelLaunch(nothing, 0, 0); }
int32_t k_work(void) { return __TVMBackendParallelLaunch(work, (void *)20000, 0); }
"""
WORK_NS, CALLS, RUNS = 20_000, 100, 300
TRIPLE = f"{platform.machine()}-linux-gnu"


def program(kernels: bytes, calls: tuple[Call, ...], weights_mb: int = 0) -> Program:
    """A model with one f32 in, one out, and `calls` between."""
    port = (Port("x", (1,), DType.F32),)
    move = Call("k_move", (Operand(Space.INPUT, 0), Operand(Space.OUTPUT, 0)), "move")
    array = np.random.default_rng(0).standard_normal(weights_mb << 18, dtype=np.float32)
    return Program(
        name="overhead",
        inputs=port,
        outputs=port,
        segments=(Segment("main", (move, *calls)),),
        flow=(RunSegment("main"),),
        objects=(kernels,),
        triple=TRIPLE,
        weights=place_weights([array]) if weights_mb else (),
    )


def row(name: str, nanoseconds: np.ndarray, per: int = 1, less: float = 0) -> None:
    """One line of the table, in microseconds."""
    times = (nanoseconds.astype(np.float64) / per - less) / 1000
    print(f"{name:58} {times.min():9.2f} {np.median(times):9.2f}")


def time_calls(artifact: Artifact, name: str, per: int = 1, less: float = 0) -> None:
    """Time from C, after a warm-up."""
    x = np.ones(1, np.float32)
    artifact.bench(x, runs=20)
    row(name, artifact.bench(x, runs=RUNS), per, less)


def time_loading(path: Path) -> None:
    """Time `optc.load` with and without the digest, and the import that comes before."""
    for name, options in (("with digest", {}), ("without digest", {"verify": False})):
        times = []
        for _ in range(10):
            start = time.perf_counter_ns()
            load(path, **options).close()  # type: ignore[arg-type]
            times.append(time.perf_counter_ns() - start)
        row(f"load 90 MB of weights, {name}", np.array(times))
    timed = f"t = now(); import optc; optc.load({str(path)!r}); print(now() - t)"
    code = f"from time import perf_counter_ns as now; {timed}"
    answers = [subprocess.check_output((sys.executable, "-c", code)) for _ in range(5)]
    row("import optc and load 90 MB, new process", np.array([int(a) for a in answers]))


def main() -> None:
    """Build, measure, print."""
    cache = Path.home() / ".cache" / "optc"
    print(f"{'microseconds':58} {'fastest':>9} {'median':>9}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "k.c").write_text(KERNELS)
        find_toolchain(TRIPLE, cache).compile(["k.c"], folder)
        kernels = (folder / "k.o").read_bytes()

        def made(label: str, *calls: Call, weights_mb: int = 0) -> Path:
            built = program(kernels, calls, weights_mb)
            emit = (Emit.SHARED, Emit.ARCHIVE)
            return write_artifact(built, folder / label, emit=emit, cache=cache).path

        empty = made("empty")
        with load(empty) as artifact:
            time_calls(artifact, "a call of a model with one tiny kernel, from C")
            x = np.ones(1, np.float32)
            start = time.perf_counter_ns()
            for _ in range(2000):
                artifact(x)
            row("the same from Python", np.array([(time.perf_counter_ns() - start) / 2000]))
        forks = made("forks", *[Call("k_fork", ())] * CALLS)
        works = made("works", *[Call("k_work", ())] * CALLS)
        for threads in (1, 2, 4):
            with load(forks, threads=threads) as artifact:
                time_calls(artifact, f"a parallel kernel without work, {threads} threads", CALLS)
            with load(works, threads=threads) as artifact:
                label = f"fork-join around {WORK_NS // 1000} us of work, {threads} threads"
                time_calls(artifact, label, CALLS, WORK_NS)
        time_loading(made("large", weights_mb=90))
        for file in ("model.so", "model.a"):
            print(f"{file + ' with three tiny kernels':58} {(empty / file).stat().st_size:9} bytes")


if __name__ == "__main__":
    main()
