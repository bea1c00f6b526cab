"""Artifacts for a GPU run on a stand-in for the driver, and on a real GPU where there is one."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optc.backends.aot.build import Emit
from optc.backends.aot.link import find_toolchain
from optc.backends.aot.package import write_artifact
from optc.backends.program import Program
from tests.backends.aot import cuda_programs as programs
from tests.backends.aot.cuda_programs import HOST, SOURCE, N
from tests.backends.cuda_driver import ROOT, Emulation, RunFailed, run_artifact, run_in

pytestmark = [
    pytest.mark.needs("package:nvidia"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator is for x86-64"),
]
X = (np.arange(N) % 17).astype(np.float32) - 3
WEIGHTS = np.arange(N, dtype=np.float32)
Build = Callable[[Program], Path]
Run = Callable[..., list[NDArray[Any]]]


@pytest.fixture(scope="module")
def build(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The artifact of a program, made once."""
    made: dict[str, Path] = {}

    def make(program: Program) -> Path:
        if program.name not in made:
            out = tmp_path_factory.mktemp(program.name) / "out"
            emit = (Emit.SHARED, Emit.ARCHIVE)
            made[program.name] = write_artifact(program, out, emit=emit, cache=cache).path
        return made[program.name]

    return make


def _why_no_gpu() -> str:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as problem:
        return f"no NVIDIA driver: {problem}"
    status = driver.cuInit(0)
    return f"the NVIDIA driver finds no GPU: error {status}" if status else ""


@pytest.fixture(params=["emulated", "gpu"])
def run(request: pytest.FixtureRequest, build: Build) -> Run:
    """Runs a program on the stand-in, and on this machine's GPU."""

    def emulated(program: Program, *inputs: NDArray[Any], calls: int = 1) -> list[NDArray[Any]]:
        return run_artifact(build(program), SOURCE, inputs, calls=calls)

    def real(program: Program, *inputs: NDArray[Any], calls: int = 1) -> list[NDArray[Any]]:
        return run_in(dict(os.environ), build(program), inputs, calls)

    if request.param == "emulated":
        return emulated
    if reason := _why_no_gpu():
        pytest.skip(reason)
    return real


def test_kernels_follow_each_other_through_the_arena(run: Run) -> None:
    y, same = run(programs.adder(), X)
    assert np.array_equal(y, 2 * (X + WEIGHTS))
    assert np.array_equal(same, X)
    assert np.array_equal(run(programs.both_in_one(), X)[0], 2 * (X + WEIGHTS))


def test_blocks_and_warps_share(run: Run) -> None:
    sums, warps, back = run(programs.reversed_sums(), X)
    assert np.array_equal(sums, X.reshape(4, 256).sum(axis=1))
    assert np.array_equal(warps, X.reshape(32, 32).sum(axis=1))
    assert np.array_equal(back, X[::-1])


def test_halves(run: Run) -> None:
    x = np.linspace(-3, 3, N).astype(np.float16)
    assert np.array_equal(run(programs.halves(), x)[0], 2 * x)


def test_states_live_from_call_to_call(run: Run) -> None:
    assert [int(a[0]) for a in run(programs.counter())] == [42, 1, 42, 1]
    assert [int(a[0]) for a in run(programs.counter(), calls=3)] == [44, 3, 44, 3]


@pytest.mark.parametrize("first", [-1.0, 1.0])
def test_a_decision_is_read_from_the_gpu(run: Run, first: float) -> None:
    x = X.copy()
    x[0] = first
    expected = 2 * x if first > 0 else x + WEIGHTS
    assert np.array_equal(run(programs.early_exit(), x)[0], expected)


@pytest.mark.parametrize("first", [0.0, 1.0, 7.0, -2.0])
def test_a_switch_takes_its_case(run: Run, first: float) -> None:
    x = X.copy()
    x[0] = first
    expected = 2 * x if first == 0 else x + WEIGHTS
    assert np.array_equal(run(programs.choice(), x)[0], expected)


def _script(text: str, path: Path, emulation: Emulation | None = None) -> str:
    environment = (emulation or Emulation()).environment(SOURCE)
    head = "import sys\nimport numpy as np\nfrom optc.runtime import load\n"
    done = subprocess.run(
        (sys.executable, "-c", head + text, str(path)),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_states_are_set_and_reset(build: Build) -> None:
    text = """
artifact = load(sys.argv[1])
artifact(); artifact.set_state("n", np.array([7], np.int32)); print(artifact()[0][0])
artifact.reset(); print(artifact.state("n")[0], artifact.state("zero")[0])
print(artifact.another()()[0][0], artifact()[0][0])
"""
    assert _script(text, build(programs.counter())).split() == ["8", "41", "0", "42", "42"]


def test_instances_run_in_threads(build: Build) -> None:
    text = """
from concurrent.futures import ThreadPoolExecutor
x = np.arange(1024, dtype=np.float32)
first = load(sys.argv[1])
instances = [first, first, first.another(), first.another()]
with ThreadPoolExecutor(4) as pool:
    for _ in range(5):
        for number, (y, _) in enumerate(pool.map(lambda i: instances[i](x + i), range(4))):
            assert np.array_equal(y, 2 * (2 * x + number))
print("fine")
"""
    assert _script(text, build(programs.adder())) == "fine\n"


def test_calls_are_timed(build: Build) -> None:
    text = """
profile = load(sys.argv[1]).profile(np.zeros(1024, np.float32), runs=3)
for k in profile.kernels:
    assert k.total_ns >= 3 * k.fastest_ns > 0
    print(k.label, k.calls)
print(profile.segment_runs)
"""
    lines = _script(text, build(programs.adder())).splitlines()
    assert lines == ["add @ model.py:3 3", "twice @ model.py:3 3", "copy x 3", "{'main': 3}"]


def test_it_runs_from_c_and_leaves_nothing_behind(
    build: Build, cache: Path, tmp_path: Path
) -> None:
    folder = build(replace(programs.both_in_one(), name="tiny"))
    toolchain = find_toolchain(HOST, cache)
    example = ROOT / "examples" / "run_from_c" / "main.c"
    link = (str(folder / "model.a"), "-lpthread", "-lm", "-ldl", "-o", "main")
    command = (*toolchain.compiler, "-O2", f"-I{folder}", str(example), *link)
    environment = {**os.environ, **toolchain.environment}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    log = tmp_path / "log"
    environment = Emulation(log=log).environment(SOURCE)
    done = subprocess.run(
        ("./main", str(folder)), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "first outputs: 0 4 8 12\n" in done.stdout
    assert (
        log.read_text().splitlines()[-1]
        == "released: 0 allocations, 0 modules, 0 streams, 0 graphs left"
    )


def _calls(build: Build, log: Path, program: Program, calls: int, graphs: bool | None) -> list[str]:
    """What the driver was asked for, of which the launches; outputs are those of a single call."""
    emulation = Emulation(log=log, graphs=graphs)
    once = run_artifact(build(program), SOURCE, [X][: len(program.inputs)])
    often = run_artifact(
        build(program), SOURCE, [X][: len(program.inputs)], calls=calls, emulation=emulation
    )
    if not program.states:
        assert all(map(np.array_equal, once, often))
    asked = log.read_text().splitlines()
    assert asked[-1] == "released: 0 allocations, 0 modules, 0 streams, 0 graphs left"
    return [line for line in asked if line.startswith(("launch", "graph", "misuse"))]


def test_runs_after_the_first_are_one_graph(build: Build, tmp_path: Path) -> None:
    asked = _calls(build, tmp_path / "log", programs.adder(), 4, True)
    launches = asked[:2]
    assert [line.split()[1] for line in launches] == ["add", "twice"]
    graph = "graph: 3 operations"  # two launches and a copy
    assert asked == [*launches, "graph: recording", *launches, graph, graph, graph]


def test_states_follow_through_graphs(build: Build, tmp_path: Path) -> None:
    emulation = Emulation(log=tmp_path / "log")
    found = run_artifact(build(programs.counter()), SOURCE, [], calls=5, emulation=emulation)
    assert [int(a[0]) for a in found] == [46, 5, 46, 5]
    assert (tmp_path / "log").read_text().count("graph: 6 operations") == 4


@pytest.mark.parametrize("graphs", [None, False])
def test_a_driver_that_makes_no_graphs_is_asked_for_launches(
    build: Build, tmp_path: Path, graphs: bool | None
) -> None:
    asked = _calls(build, tmp_path / "log", programs.adder(), 3, graphs)
    recorded = graphs is False  # once, and not tried again
    assert asked.count("graph: recording") == recorded
    assert sum(line.startswith("launch: add") for line in asked) == 3 + recorded
    assert not [line for line in asked if "operations" in line]


def test_a_flow_that_reads_a_flag_is_not_captured(build: Build, tmp_path: Path) -> None:
    asked = _calls(build, tmp_path / "log", programs.early_exit(), 3, True)
    assert sum(line.startswith("launch: above") for line in asked) == 3
    assert not [line for line in asked if line.startswith("graph")]


def test_calls_are_counted_and_timed_beside_graphs(build: Build) -> None:
    text = """
x = np.arange(1024, dtype=np.float32)
artifact = load(sys.argv[1])
for _ in range(4): artifact(x)
print(artifact.segment_runs())
print(artifact.profile(x, runs=3).segment_runs)
artifact(x)
print(artifact.segment_runs())
"""
    lines = _script(text, build(programs.adder())).splitlines()
    assert lines == ["{'main': 4}", "{'main': 3}", "{'main': 4}"]


@pytest.mark.parametrize(
    ("gpu", "image"), [("7.5", "cubin of sm_75"), ("8.0", "PTX of sm_75"), ("9.0", "PTX of sm_75")]
)
def test_newer_gpus_take_ptx(build: Build, tmp_path: Path, gpu: str, image: str) -> None:
    emulation = Emulation(gpu=gpu, log=tmp_path / "log")
    y = run_artifact(build(programs.adder()), SOURCE, [X], emulation=emulation)[0]
    assert np.array_equal(y, 2 * (X + WEIGHTS))
    assert f"module: {image}\n" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("emulation", "code", "sentence"),
    [
        (Emulation(gpu="none"), "E0516", "adder needs an NVIDIA GPU: the driver finds none"),
        (Emulation(gpu="7.0"), "E0516", "capability 7.5 or newer, Emulated GPU has 7.0"),
        (Emulation(memory=9000), "E0525", "no GPU memory for 8192 bytes of weights: out of memory"),
    ],
)
def test_a_gpu_that_does_not_do_is_one_sentence(
    build: Build, emulation: Emulation, code: str, sentence: str
) -> None:
    with pytest.raises(RunFailed) as caught:
        run_artifact(build(programs.adder()), SOURCE, [X], emulation=emulation)
    last = str(caught.value).splitlines()[-1]
    assert code in last
    assert sentence in last


def test_a_machine_without_driver_says_so(build: Build, tmp_path: Path) -> None:
    if not _why_no_gpu():
        pytest.skip("this machine has a GPU")
    np.save(tmp_path / "x.npy", X)
    folder = build(programs.adder())
    command = (
        sys.executable,
        "-m",
        "optc.cli",
        "run",
        str(folder),
        "--input",
        f"x={tmp_path}/x.npy",
    )
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "E0516" in done.stderr
    assert "needs an NVIDIA" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_illegal_address_is_reported(build: Build) -> None:
    with pytest.raises(
        RunFailed, match=r"E0517.*a run failed on the GPU: kernel far_away"
    ) as caught:
        run_artifact(build(programs.broken()), SOURCE, [X])
    assert "error 700" in str(caught.value)


def test_the_driver_is_found_at_run_time_only(build: Build, adder_folder: Path) -> None:
    needed = subprocess.run(
        ("readelf", "-d", str(build(programs.adder()) / "model.so")),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cuda" not in needed.stdout.lower()
    assert b"libcuda" not in (adder_folder / "model.so").read_bytes()
    assert b"cuLaunchKernel" not in (adder_folder / "model.so").read_bytes()
