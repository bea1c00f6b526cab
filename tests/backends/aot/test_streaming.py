"""Streamed weights: sound plans, the results of mapped weights, errors that leave it usable."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optc.backends.aot.build import Emit
from optc.backends.aot.package import write_artifact
from optc.backends.aot.stream_driver import visits_of
from optc.backends.aot.stream_plan import needs_of, stream
from optc.backends.program import (
    Call,
    Copy,
    ExitIf,
    Operand,
    Port,
    Program,
    RunSegment,
    Segment,
    Space,
    Step,
    Switch,
    Weight,
    align,
    place_weights,
)
from optc.backends.streaming import Gather
from optc.ir.diagnostics import OptcError
from optc.ir.dtype import DType
from optc.runtime import load

HERE = Path(__file__).parent
N = 1024
ARENA = Operand(Space.ARENA, 0), Operand(Space.ARENA, 4 * N)


def test_a_window_below_the_largest_block_is_refused(layers: Program) -> None:
    needs = needs_of(layers)
    with pytest.raises(ValueError, match="cannot hold"):
        stream(needs, needs.largest - 1)


@pytest.fixture(scope="module")
def layers(adder: Program) -> Program:
    """y = x + w0 + w1 + ... + w15, each weight 64 kB of which a kernel reads 4."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-99, 99, 16 * N).astype(np.float32) for _ in range(16)]
    weights = place_weights(arrays)
    return replace(
        adder,
        name="layers",
        segments=(Segment("main", added(weights)),),
        weights=weights,
        arena_bytes=8 * N,
    )


def added(weights: Sequence[Weight]) -> tuple[Call, ...]:
    """Calls that add one weight after the other to input 0, into output 0."""
    places = [Operand(Space.INPUT, 0)]
    places += [ARENA[number % 2] for number in range(len(weights) - 1)]
    places += [Operand(Space.OUTPUT, 0)]
    return tuple(
        Call("k_add", (places[i], Operand(Space.WEIGHTS, w.offset), places[i + 1]), f"add {i}")
        for i, w in enumerate(weights)
    )


def expected(program: Program, x: np.ndarray) -> np.ndarray:
    """What `layers` computes."""
    for weight in program.weights:
        x = x + weight.load()[:N]
    return x


@pytest.mark.parametrize("blocks", [1, 1.5, 2, 5, 100])
def test_results_are_those_of_mapped_weights(
    layers: Program, cache: Path, tmp_path: Path, blocks: float
) -> None:
    needs = needs_of(layers)
    streamed = stream(needs, int(needs.largest * blocks))
    out = write_artifact(streamed, tmp_path / "out", cache=cache).path
    with load(out, threads=2) as artifact:
        for seed in range(20):
            x = np.random.default_rng(seed).integers(0, 9, N).astype(np.float32)
            assert np.array_equal(artifact(x), expected(layers, x))
        assert artifact.manifest["peak_bytes"] == streamed.peak_bytes
        with artifact.another() as other:
            assert np.array_equal(other(x), artifact(x))


FLOWS: dict[str, tuple[Step, ...]] = {
    "exit": (
        RunSegment("a"),
        ExitIf(Operand(Space.INPUT, 1), (RunSegment("b"),)),
        RunSegment("c"),
        RunSegment("d"),
    ),
    "exits only": (ExitIf(Operand(Space.INPUT, 1), (RunSegment("b"),)), RunSegment("empty")),
    "switch": (
        RunSegment("a"),
        Switch(
            Operand(Space.INPUT, 1),
            ((RunSegment("b"),), (RunSegment("empty"), RunSegment("c")), (RunSegment("d"),)),
        ),
        RunSegment("a"),
    ),
    "switch first": (
        Switch(Operand(Space.INPUT, 1), ((RunSegment("b"),), (RunSegment("c"),))),
        RunSegment("d"),
    ),
    "nested": (
        RunSegment("a"),
        ExitIf(
            Operand(Space.INPUT, 1),
            (RunSegment("b"), Switch(Operand(Space.INPUT, 1), ((RunSegment("c"),), ()))),
        ),
        RunSegment("d"),
    ),
}


@pytest.mark.parametrize("flow", FLOWS)
def test_the_window_follows_the_path_that_is_taken(
    layers: Program, cache: Path, tmp_path: Path, flow: str
) -> None:
    """Random decisions, one after the other: each run is that of mapped weights."""
    w = layers.weights
    parts = {"a": w[:4], "b": w[4:7], "c": w[7:12], "d": (*w[12:], w[0], w[5])}
    same = Copy(Operand(Space.INPUT, 0), Operand(Space.OUTPUT, 0), 4 * N, "no weights")
    segments = (
        *(Segment(name, added(part)) for name, part in parts.items()),
        Segment("empty", (same,)),
    )
    program = replace(
        layers,
        inputs=(*layers.inputs, Port("decision", (), DType.I32)),
        segments=segments,
        flow=FLOWS[flow],
    )
    needs = needs_of(program)
    mapped = load(write_artifact(program, tmp_path / "mapped", cache=cache).path)
    out = write_artifact(stream(needs, int(needs.largest * 2.5)), tmp_path / "out", cache=cache)
    streamed = load(out.path)
    choose = random.Random(1)
    for _ in range(60):
        x = np.random.default_rng(choose.randrange(99)).integers(0, 9, N).astype(np.float32)
        decision = np.int32(choose.choice([0, 0, 1, 2, 3]))
        assert np.array_equal(streamed(x, decision), mapped(x, decision))
    assert streamed.segment_runs() == mapped.segment_runs()


def test_visits_name_what_comes_next() -> None:
    visits = [(visit.segment, visit.next) for visit in visits_of(FLOWS["switch"])]
    assert visits == [("a", None), ("b", 5), ("empty", 3), ("c", 5), ("d", 5), ("a", 0)]
    visits = [(visit.segment, visit.next) for visit in visits_of(FLOWS["exit"])]
    assert visits == [("a", 2), ("b", 0), ("c", 3), ("d", 0)]


def test_a_file_that_is_cut_short_is_an_error_and_the_instance_stays_usable(
    layers: Program, cache: Path, tmp_path: Path
) -> None:
    needs = needs_of(layers)
    out = write_artifact(stream(needs, 2 * needs.largest), tmp_path / "out", cache=cache).path
    weights = out / "weights.bin"
    content = weights.read_bytes()
    x = np.ones(N, np.float32)
    with load(out) as artifact:
        right = artifact(x)
        os.truncate(weights, len(content) // 2)
        for _ in range(3):
            with pytest.raises(OptcError, match="E0514"):
                artifact(x)
        weights.write_bytes(content)
        assert np.array_equal(artifact(x), right)
        damaged = bytearray(content)
        damaged[-100] ^= 1
        weights.write_bytes(damaged)
        with pytest.raises(OptcError, match="damaged"):
            artifact(x)
        weights.write_bytes(content)
        weights.unlink()  # an open file stays
        assert np.array_equal(artifact(x), right)
    weights.write_bytes(content[:-64])
    with pytest.raises(OptcError, match="E0514"):
        load(out)
    weights.write_bytes(content)
    with pytest.raises(OptcError, match="cannot be copied"):
        load(out, copy=True)


def test_the_child_of_a_fork_reads_for_itself(layers: Program, cache: Path, tmp_path: Path) -> None:
    needs = needs_of(layers)
    out = write_artifact(stream(needs, 2 * needs.largest), tmp_path / "out", cache=cache).path
    x = np.ones(N, np.float32)
    artifact = load(out)
    right = artifact(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(np.array_equal(artifact(x), right) for _ in range(5)) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert np.array_equal(artifact(x), right)


def test_rows_of_a_table_are_read_when_they_are_picked(
    adder: Program, cache: Path, tmp_path: Path
) -> None:
    """A kernel that picks rows gets those rows, and indices beyond the table are clamped."""
    rows, width = 5000, 300
    table = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    pick = (Operand(Space.WEIGHTS, 0), Operand(Space.INPUT, 0), Operand(Space.OUTPUT, 0))
    program = replace(
        adder,
        name="picker",
        inputs=(Port("i", (4,), DType.I64),),
        outputs=(Port("y", (4, width), DType.F32),),
        segments=(Segment("main", (Call("k_pick", pick, "pick"),)),),
        weights=place_weights([table]),
        gathers={"k_pick": (Gather(0, 1, 4, 8, rows, 4 * width),)},
        arena_bytes=0,
    )
    needs = needs_of(program)
    assert (needs.largest, needs.pinned_bytes) == (0, 0)
    streamed = stream(needs, 0)
    assert streamed.peak_bytes < table.nbytes / 50
    with load(write_artifact(streamed, tmp_path / "out", cache=cache).path) as artifact:
        for indices in ([1, 1, 4999, 0], [7, 2500, 3, 4998], [-5, 99999, 2, 2]):
            found = artifact(np.array(indices, np.int64))
            assert np.array_equal(found, table[np.clip(indices, 0, rows - 1)])


MEASURED = HERE / "streamed.c"


def emitted(program: Program, folder: Path, cache: Path) -> Path:
    """The program's C sources with its kernels' source among them."""
    out = write_artifact(program, folder / "out", emit=(Emit.SOURCE,), cache=cache).path
    shutil.copy(out / "weights.bin", out / "source" / "weights.bin")
    shutil.copy(HERE / "kernels.c", out / "source" / "kernels.c")
    shutil.copy(MEASURED, out / "source" / "streamed.c")
    return out / "source"


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_a_sanitizer_finds_nothing(
    layers: Program, cache: Path, tmp_path: Path, sanitizer: str
) -> None:
    """Instances run at the same time, come and go, lose their file and get it back."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc's sanitizers")
    needs = needs_of(layers)
    folder = emitted(stream(needs, int(2.5 * needs.largest)), tmp_path, cache)
    sources = sorted(path.name for path in folder.glob("*.c"))
    command = ["gcc", "-std=c11", "-O1", "-g", f"-fsanitize={sanitizer}", *sources]
    built = subprocess.run(
        [*command, "-o", "stress", "-lpthread", "-lm"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "cannot find" in built.stderr:
        pytest.skip("gcc's sanitizers are not installed")
    assert built.returncode == 0, built.stderr
    prefix = ("setarch", "-R") if shutil.which("setarch") else ()
    done = subprocess.run(
        (*prefix, "./stress", "weights.bin", "stress"),
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the sanitizer cannot map its memory here")
    assert done.returncode == 0, done.stderr[-4000:]


def measured(program: Program, folder: Path, cache: Path) -> dict[str, int]:
    """What the system counts while a C program runs the model: bytes by name."""
    source = emitted(program, folder, cache)
    sources = sorted(path.name for path in source.glob("*.c"))
    wrapped = "-Wl,--wrap=mmap,--wrap=munmap"
    command = ["gcc", "-std=c11", "-O1", "-DCOUNT_MAPS", wrapped, *sources, "-o", "measured"]
    subprocess.run([*command, "-lpthread", "-lm"], cwd=source, check=True, capture_output=True)
    done = subprocess.run(
        ("./measured", "weights.bin", "measure"),
        cwd=source, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name: int(value) for name, value in (line.split() for line in done.stdout.splitlines())}


@pytest.fixture(scope="module")
def large(layers: Program) -> Program:
    """As `layers`, with 48 weights of 1 MiB."""
    arrays = [np.full(1 << 18, number, np.float32) for number in range(48)]
    weights = place_weights(arrays)
    return replace(layers, segments=(Segment("main", added(weights)),), weights=weights)


@pytest.mark.parametrize("mebibytes", [None, 2, 5, 12])
def test_the_peak_is_what_the_system_counts(
    large: Program,
    kernel_object: Callable[[str], bytes],
    cache: Path,
    tmp_path: Path,
    mebibytes: int | None,
) -> None:
    """Mapped memory is the plan's to the page; resident memory grows by no more than the plan."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    program = stream(needs_of(large), mebibytes << 20) if mebibytes else large
    found = measured(program, tmp_path, cache)
    page = os.sysconf("SC_PAGESIZE")
    header = 0 if mebibytes else 64
    parts = (program.arena_bytes, program.state_bytes, program.resident_weights + header)
    if program.stream is not None:
        plan = program.stream
        parts = (program.arena_bytes, program.state_bytes, plan.window, plan.pinned, plan.tables)
    assert found["mapped"] == sum(align(part, page) for part in parts)
    assert found["right"] == 1
    grown = found["high_water"] - found["before"]
    assert grown <= program.peak_bytes + (1 << 20)  # libc's and the runtime's own tables, stacks
    assert grown >= 0.8 * program.peak_bytes  # a plan that promises too much is wrong as well
