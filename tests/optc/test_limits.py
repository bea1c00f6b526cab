"""The roofline and what is kept of it, from numbers made up here; the microkernels count right."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import optc.limits
from optc.backends.aot.link import find_toolchain
from optc.bench import kernel_rows
from optc.ir.dtype import DType
from optc.ir.targets.detect import host, host_with
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Arch, Target
from optc.limits import FILE, kept_limits, limits_of
from optc.microkernels import DTYPES, build, source
from optc.roofline import Bound, Level, Limits, Work
from optc.runtime import KernelTime

LEVELS = (
    Level("l1", 1000, 100e9, 50e9, 80e9),
    Level("l3", 100_000, 20e9, 20e9, 20e9),
    Level("dram", 1 << 30, 10e9, 5e9, 8e9),
)
ONE = Limits(1, 100e9, LEVELS, {"i8": 400e9, "bf16": 200e9})
TWO = replace(ONE, threads=2, fork_join=1e-6)


def test_compute_binds_by_dtype() -> None:
    for dtype, peak in ((DType.F32, 100), (DType.BF16, 200), (DType.I8, 400), (DType.U8, 400)):
        least = ONE.least(Work(1_000_000, 100, 100, dtype=dtype))
        assert least.seconds == pytest.approx(1e6 / (peak * 1e9))
        assert least.bound is Bound.COMPUTE


def test_a_dtype_without_instructions_is_computed_in_f32() -> None:
    assert ONE.peak(DType.F16) == ONE.flops


@pytest.mark.parametrize(
    ("work", "seconds", "bound"),
    [
        (Work(0, 1000), 1000 / 100e9, Bound.CACHE),
        (Work(0, 500, 500), 1000 / 80e9, Bound.CACHE),  # a copy
        (Work(0, 0, 1000), 1000 / 50e9, Bound.CACHE),
        (Work(0, 50_000), 1000 / 100e9 + 49_000 / 20e9, Bound.CACHE),
        (Work(0, 1_101_000), 1000 / 100e9 + 100_000 / 20e9 + 1_000_000 / 10e9, Bound.MEMORY),
        (Work(0, 0), 0.0, Bound.UNKNOWN),
    ],
)
def test_bandwidth_binds_by_size_and_direction(work: Work, seconds: float, bound: Bound) -> None:
    least = ONE.least(work)
    assert least.seconds == pytest.approx(seconds)
    assert least.bound is bound


KEPT = (0.9, 0.6, 0.5, 0.4, 0.2, 0.1)
SPEEDS = tuple(1 / (part / 100e9 + (1 - part) / 10e9) for part in KEPT)
PART, BEHIND = Level("l2", 1000, 100e9, crowded=SPEEDS), Level("dram", 1 << 30, 10e9)


@pytest.mark.parametrize(
    ("asked", "held"),
    [(400, 400), (500, 500), (625, 0.95 * 625), (750, 675), (1000, 600), (1750, 0.15 * 1750),
     (2000, 200), (8000, 200)],
)  # fmt: skip
def test_a_cache_gone_round_keeps_what_was_measured(asked: int, held: float) -> None:
    assert PART.holds(asked, BEHIND) == pytest.approx(held)
    assert PART.holds(asked / 2, BEHIND, 2) == pytest.approx(held / 2)
    seconds = held / 100e9 + (asked - held) / 10e9
    least = Limits(1, 1e12, (PART, BEHIND)).least(Work(0, asked))
    assert least.seconds == pytest.approx(seconds)


def test_reading_more_that_was_disturbed_keeps_no_less() -> None:
    once = replace(PART, crowded=(SPEEDS[0], 1.0, *SPEEDS[2:]))
    assert once.holds(1000, BEHIND) == pytest.approx(500)
    assert PART.holds(1500, replace(BEHIND, bandwidth=100e9)) == 1000  # not to be told apart


def test_the_better_of_two_measurements_reads_faster() -> None:
    other = replace(PART, bandwidth=90e9, crowded=(*SPEEDS[:1], 80e9, *SPEEDS[2:5], 1e9))
    better = Limits(1, 1e9, (PART, BEHIND)).better(Limits(1, 1e9, (other, BEHIND)))
    assert better.levels[0] == replace(PART, crowded=(SPEEDS[0], 80e9, *SPEEDS[2:]))


def test_weights_that_no_cache_keeps_come_from_memory() -> None:
    work = Work(1000, 50_000, 100, weights=50_000)
    assert ONE.least(work, all_weights=90_000).bound is Bound.CACHE
    least = ONE.least(work, all_weights=1_000_000)
    assert least.bound is Bound.MEMORY
    assert least.seconds == pytest.approx(0.9 * 50_000 / 10e9)


def test_tiny_kernels_are_bound_by_waking_threads() -> None:
    alone = TWO.least(Work(50_000, 100))  # 1 µs on one thread, 0.5 and a fork-join on two
    assert alone.bound is Bound.FORK_JOIN
    assert alone.seconds == pytest.approx(50_000 / 50e9)
    forked = TWO.least(Work(150_000, 100))
    assert forked.bound is Bound.COMPUTE
    assert forked.seconds == pytest.approx(1.5e-6 + 1e-6)


def test_one_thread_has_the_shared_cache_to_itself() -> None:
    quick = replace(TWO, fork_join=1.0)
    assert quick.least(Work(0, 500)).seconds == pytest.approx(2 * 500 / 100e9)
    alone = 2 * 500 / 100e9 + 19_500 / 20e9
    assert quick.least(Work(0, 20_000)).seconds == pytest.approx(alone)


def test_unknown_limits_say_nothing() -> None:
    least = Limits.unknown(4).least(Work(10**9, 10**9))
    assert (least.seconds, least.bound) == (0.0, Bound.UNKNOWN)


def test_a_kernel_row_is_held_to_the_limit_of_its_dtype() -> None:
    call = KernelTime("k", "k", "main", 4_000_000, 200, 1, 20_000, 20_000, "i8", 100, 50)
    (row,) = kernel_rows((call,), ONE)
    assert row.limit == pytest.approx(10e-6)
    assert row.wall == "compute i8"
    assert row.speed == "200.0 GOP/s"
    assert row.work == Work(4_000_000, 100, 100, 50, DType.I8)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Limits]:
    """What the measurement answers, in turn; nothing is timed."""
    answers: list[Limits] = []
    monkeypatch.setattr(optc.limits, "measure", lambda *_: answers.pop(0))
    return answers


def test_limits_are_measured_once_and_kept(tmp_path: Path, measured: list[Limits]) -> None:
    target = find_target("x86-64-v3")
    crowded = replace(TWO, levels=(PART, *LEVELS[1:]))
    measured[:] = [crowded]
    assert limits_of(target, 3, tmp_path) == kept_limits(target, 3, tmp_path) == crowded
    assert kept_limits(target, 2, tmp_path) is None
    measured[:] = [TWO]
    assert limits_of(target, 2, tmp_path) == TWO
    assert limits_of(target, 2, tmp_path) == TWO
    assert kept_limits(target, 2, tmp_path) == TWO
    assert kept_limits(target, 1, tmp_path) is None
    assert kept_limits(find_target("x86-64-v2"), 2, tmp_path) is None


def test_measuring_again_keeps_the_better_numbers(tmp_path: Path, measured: list[Limits]) -> None:
    target = find_target("x86-64-v3")
    worse = replace(TWO, flops=1e9, fork_join=0.5e-6, peaks={"i8": 500e9})
    measured[:] = [TWO, worse]
    limits_of(target, 2, tmp_path)
    both = limits_of(target, 2, tmp_path, again=True)
    assert (both.flops, both.fork_join) == (100e9, 0.5e-6)
    assert both.peaks == {"i8": 500e9, "bf16": 200e9}
    assert kept_limits(target, 2, tmp_path) == both


def test_a_file_that_cannot_be_read_is_measured_again(
    tmp_path: Path, measured: list[Limits]
) -> None:
    target = find_target("x86-64-v3")
    for text in ("{", "[]", json.dumps({"2; x": {}})):
        (tmp_path / FILE).write_text(text)
        assert kept_limits(target, 2, tmp_path) is None
    measured[:] = [TWO]
    limits_of(target, 2, tmp_path)
    row = json.loads((tmp_path / FILE).read_text())
    (key,) = (name for name in row if "threads 2" in name)
    row[key]["levels"] = [{"name": "l1"}]
    (tmp_path / FILE).write_text(json.dumps(row))
    assert kept_limits(target, 2, tmp_path) is None


def test_fewer_instructions_are_another_machine() -> None:
    whole = host()
    if whole.arch is not Arch.X86_64:
        pytest.skip("the levels are those of x86-64")
    plain = host_with(find_target("x86-64-v2").features)
    assert (plain.vector_bits, plain.fma) == (128, False)
    assert (plain.cores, plain.memory) == (whole.cores, whole.memory)
    assert host_with(whole.features) == whole


# Of one round: 12 chains of a vector of 32-bit sums, each the sum of this many products.
PRODUCTS = {DType.F32: 1, DType.F16: 2, DType.BF16: 2, DType.I8: 4}


def counts(target: Target, rounds: int) -> dict[DType, int]:
    """Multiply-adds that the computing kernels should count, by the target's instructions."""
    each = dict(PRODUCTS)
    if target.arch is Arch.X86_64:
        each[DType.I8] = 4 if "avx512_vnni" in target.features else 2
        needs = {DType.F16: "avx512_fp16", DType.BF16: "avx512_bf16"}
    else:
        each[DType.BF16] = 4
        each[DType.I8] = (
            8 if "i8mm" in target.features else 4 if "asimddp" in target.features else 2
        )
        needs = {DType.F16: "asimdhp", DType.BF16: "bf16"}
    for dtype, feature in needs.items():
        if feature not in target.features:
            each[dtype] = 0
    return {dtype: 12 * target.vector_bits // 32 * each[dtype] * rounds for dtype in DTYPES}


@pytest.fixture(scope="session")
def cached(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled runtimes, kept from one test run to the next."""
    kept = getattr(request.config, "cache", None)
    return Path(kept.mkdir("limits")) if kept else tmp_path_factory.mktemp("limits")


@pytest.mark.parametrize("name", ["host", "x86-64-v4", "x86-64-v3", "x86-64-v2"])
def test_every_kernel_does_what_is_counted(name: str, tmp_path: Path, cached: Path) -> None:
    target, machine = find_target(name), host()
    missing = set(target.features) - set(machine.features)
    if missing or target.arch is not machine.arch:
        pytest.skip(f"this machine is no {name}")
    library = build(target, tmp_path, cached)
    found = {dtype: library.optc_limits_count(index, 101) for index, dtype in enumerate(DTYPES)}
    assert found == counts(target, 101)
    for index, dtype in enumerate(DTYPES):
        assert (library.optc_limits_compute(index, 2, 101, 2) > 0) == (found[dtype] > 0)
    assert all(library.optc_limits_move(how, 2, 8192, 3, 2) > 0 for how in range(3))
    assert 0 <= library.optc_limits_fork_join(2, 1e-6, 10) < 1


MAIN = """
#include <stdint.h>
#include <stdio.h>
double optc_limits_count(int dtype, int64_t rounds);
double optc_limits_compute(int dtype, int threads, int64_t rounds, int repeats);
double optc_limits_move(int how, int threads, unsigned long bytes, int64_t rounds, int repeats);
int main(void) {
    for (int dtype = 0; dtype < 4; ++dtype) printf("%.0f ", optc_limits_count(dtype, 101));
    for (int how = 0; how < 3; ++how) printf("%d ", optc_limits_move(how, 2, 8192, 3, 2) > 0);
    printf("%d\\n", optc_limits_compute(0, 2, 101, 2) > 0);
}
"""


@pytest.mark.needs("tool:qemu-aarch64-static")
@pytest.mark.parametrize("name", ["aarch64", "cortex-a76", "neoverse-v1"])
def test_arm_kernels_do_what_is_counted(name: str, tmp_path: Path, cached: Path) -> None:
    target = replace(find_target(name), triple="aarch64-linux-musl")
    toolchain = find_toolchain(target.triple, cached)
    (tmp_path / "limits.c").write_text(source(target))
    (tmp_path / "main.c").write_text(MAIN)
    (tmp_path / "pool.o").write_bytes(toolchain.runtime(cached)["pool.o"])
    objects = (*toolchain.compile(("limits.c", "main.c"), tmp_path), "pool.o")
    command = (*toolchain.compiler, "-static", *objects, "-lpthread", "-o", "program")
    environment = {**os.environ, **toolchain.environment}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    run = ("qemu-aarch64-static", "-cpu", "max", "./program")
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
    *found, read, write, copy, computed = map(int, done.stdout.split())
    assert dict(zip(DTYPES, found, strict=True)) == counts(target, 101)
    assert (read, write, copy, computed) == (1, 1, 1, 1)
