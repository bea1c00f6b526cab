"""The C example is built and run, with the library, with the archive, and on ARM."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from optc.backends.aot.build import Emit
from optc.backends.aot.link import find_toolchain
from optc.backends.aot.package import write_artifact
from optc.backends.program import Program
from optc.runtime import load

EXAMPLE = Path(__file__).parents[3] / "examples" / "run_from_c"


@pytest.fixture(scope="module")
def tiny(adder: Program, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adder under the name that the example uses."""
    emit = (Emit.SHARED, Emit.ARCHIVE)
    out = tmp_path_factory.mktemp("tiny") / "out"
    return write_artifact(replace(adder, name="tiny"), out, emit=emit, cache=cache).path


@pytest.mark.parametrize("rule", ["main", "static"])
def test_the_example_runs(tiny: Path, tmp_path: Path, rule: str) -> None:
    if not shutil.which("make") or not shutil.which("cc"):
        pytest.skip("needs make and cc")
    folder = shutil.copytree(EXAMPLE, tmp_path / "example")
    make = ("make", "-s", "CFLAGS=-std=c11 -O2 -Wall -Wextra -Werror", f"OUT={tiny}", rule)
    subprocess.run(make, cwd=folder, check=True)
    done = subprocess.run(
        ("./main", str(tiny)), cwd=folder, capture_output=True, text=True, check=True
    )
    assert "input x: f32 1024, 4096 bytes" in done.stdout
    assert "first outputs: 0 4 8 12\n" in done.stdout
    assert "microseconds" in done.stdout
    broken = subprocess.run(
        ("./main", "/nowhere"), cwd=folder, capture_output=True, text=True, check=False
    )
    assert broken.returncode == 1
    assert "cannot open /nowhere" in broken.stderr


def test_the_example_from_model_to_program(tmp_path: Path) -> None:
    """What the README of the example says, from PyTorch to the C program, against PyTorch."""
    if not shutil.which("make") or not shutil.which("cc"):
        pytest.skip("needs make and cc")
    folder = shutil.copytree(EXAMPLE, tmp_path / "example")
    subprocess.run((sys.executable, "make_model.py"), cwd=folder, check=True, capture_output=True)
    subprocess.run(("make", "-s", "static"), cwd=folder, check=True)
    done = subprocess.run(("./main", "out"), cwd=folder, capture_output=True, text=True, check=True)
    x = (np.arange(64) % 7).astype(np.float32).reshape(1, 64)
    tiny = runpy.run_path(str(folder / "make_model.py"))["Tiny"]().eval()
    expected = tiny(torch.from_numpy(x)).detach().numpy()
    line = next(line for line in done.stdout.splitlines() if line.startswith("first outputs:"))
    shown = [float(word) for word in line.split()[2:]]
    assert np.allclose(shown, expected[0, :4], rtol=1e-4, atol=1e-5)
    assert np.allclose(load(folder / "out")(x), expected, rtol=1e-4, atol=1e-5)


ARM = {
    "aarch64-linux-musl": ("qemu-aarch64-static", ("fp", "asimd")),
    "arm-linux-musleabihf": ("qemu-arm-static", ("neon",)),
}


@dataclass(frozen=True)
class Arm:
    """Programs of a triple, built with the C example as one static program and run by qemu."""

    triple: str
    adder: Program
    object: bytes
    cache: Path
    folder: Path

    def ran(self, *features: str, cpu: str = "max") -> subprocess.CompletedProcess[str]:
        """What comes of the example whose model needs `features`, on a machine like `cpu`."""
        program = replace(
            self.adder, name="tiny", triple=self.triple, features=features, objects=(self.object,)
        )
        out = self.folder / "out"
        write_artifact(program, out, emit=(Emit.ARCHIVE,), cache=self.cache)
        toolchain = find_toolchain(self.triple, self.cache)
        archive = (f"{EXAMPLE}/main.c", f"{out}/model.a", "-lpthread", "-lm")
        subprocess.run(
            (*toolchain.compiler, "-static", "-O2", f"-I{out}", *archive, "-o", "main"),
            cwd=self.folder,
            env={**os.environ, **toolchain.environment},
            check=True,
            capture_output=True,
        )
        run = (ARM[self.triple][0], "-cpu", cpu, "./main", str(out))
        return subprocess.run(run, cwd=self.folder, capture_output=True, text=True, check=False)


@pytest.fixture
def arm(
    request: pytest.FixtureRequest,
    adder: Program,
    kernel_object: Callable[[str], bytes],
    cache: Path,
    tmp_path: Path,
) -> Arm:
    """The adder for the triple that the test names."""
    triple = request.param
    qemu, _ = ARM[triple]
    if not shutil.which(qemu):
        pytest.skip(f"needs {qemu} (Debian: qemu-user-static)")
    return Arm(triple, adder, kernel_object(triple), cache, tmp_path)


@pytest.mark.parametrize("arm", ARM, indirect=True)
def test_it_runs_on_arm(arm: Arm) -> None:
    """And is refused when it asks for a feature that no emulated CPU has."""
    features = ARM[arm.triple][1]
    done = arm.ran(*features)
    assert done.returncode == 0
    assert "first outputs: 0 4 8 12\n" in done.stdout
    refused = arm.ran(*features, "from_the_future")
    assert refused.returncode == 1
    assert "this machine lacks: from_the_future" in refused.stderr


@pytest.mark.parametrize("arm", ["aarch64-linux-musl"], indirect=True)
def test_vectors_shorter_than_the_code_wants_are_refused(arm: Arm) -> None:
    """Scalable vectors tell their length only when the program runs."""
    wants = ("fp", "asimd", "sve", "sve256")
    done = arm.ran(*wants, cpu="max,sve-default-vector-length=32")
    assert done.returncode == 0
    assert "first outputs: 0 4 8 12\n" in done.stdout
    refused = arm.ran(*wants, cpu="max,sve-default-vector-length=16")
    assert refused.returncode == 1
    assert "this machine lacks: sve256" in refused.stderr


@pytest.mark.parametrize("triple", ["aarch64-linux-gnu", "armv7-linux-gnueabihf"])
def test_libraries_for_arm_link(
    adder: Program, kernel_object: Callable[[str], bytes], cache: Path, tmp_path: Path, triple: str
) -> None:
    """A shared library needs the target's C library to run; here it has the right machine."""
    program = replace(adder, triple=triple, objects=(kernel_object(triple),))
    raw = (write_artifact(program, tmp_path / "out", cache=cache).path / "model.so").read_bytes()
    machine = {"aarch64": 183, "armv7": 40}[triple.split("-")[0]]  # EM_AARCH64, EM_ARM
    assert raw[:4] == b"\x7fELF"
    assert int.from_bytes(raw[18:20], "little") == machine
