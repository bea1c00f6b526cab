"""Small models on machines that are not here: ARM under qemu, a GPU under the stand-in driver."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import optc
from benchmarks.model_table import flat, largest_error
from benchmarks.models import MODELS
from optc.backends.aot.build import Emit
from optc.backends.aot.launches import SOURCE
from optc.backends.aot.link import find_toolchain
from optc.driver import Compiled, Options, compile_module
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from tests.backends.cuda_driver import run_artifact

SMALL = [name for name, entry in MODELS.items() if entry.small]
LIMIT = 1e-4  # of the output's range
RUNNER = Path(__file__).with_name("run_anywhere.c")
# Static programs need no C library of the machine: zig brings musl's.
ARM: dict[str, tuple[str, Target]] = {
    "aarch64": (
        "qemu-aarch64-static",
        replace(find_target("aarch64"), triple="aarch64-linux-musl"),
    ),
    "armv7": ("qemu-arm-static", replace(find_target("armv7"), triple="arm-linux-musleabihf")),
}
ARMV7 = ("digits-cnn", "mtcnn-pnet", "two-inputs", "recurrent")  # 32 bits: a sample of the kernels
CASES = [("aarch64", name) for name in SMALL] + [("armv7", name) for name in ARMV7]


@cache
def captured(name: str) -> tuple[Module, list[NDArray[Any]], list[torch.Tensor]]:
    """A model, its inputs, and what PyTorch makes of them."""
    package = MODELS[name].package
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"package {package} is not installed: make venv")
    model, inputs = MODELS[name].make()
    module = optc.capture(model, inputs)
    with torch.no_grad():
        return module, [tensor.numpy() for tensor in inputs], flat(model(*inputs))


def compiled(name: str, target: Target, folder: Path, *emit: Emit) -> Compiled:
    """The model's artifact for a target."""
    return compile_module(captured(name)[0], target, folder / "out", Options(emit=emit))


@pytest.mark.parametrize(("machine", "name"), CASES, ids=lambda part: part)
def test_a_model_agrees_on_arm(machine: str, name: str, tmp_path: Path) -> None:
    emulator, target = ARM[machine]
    if not shutil.which(emulator):
        pytest.skip(f"needs {emulator} (Debian: qemu-user-static)")
    made = compiled(name, target, tmp_path, Emit.ARCHIVE)
    _, inputs, expected = captured(name)
    toolchain = find_toolchain(target.triple, None)
    prefix = f"-DPREFIX={made.manifest['prefix']}"
    link = (*toolchain.compiler, "-static", "-O1", prefix, f"-I{made.path}", str(RUNNER))
    link += (f"{made.path}/model.a", "-lpthread", "-lm", "-o", "main")
    environment = {**os.environ, **toolchain.environment}
    subprocess.run(link, cwd=tmp_path, env=environment, check=True, capture_output=True)
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in inputs)
    run = (emulator, "-cpu", "max", "./main", str(made.path))
    done = subprocess.run(run, cwd=tmp_path, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert largest_error(unpacked(done.stdout, made, expected), expected) <= LIMIT


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator is for x86-64")
@pytest.mark.needs("package:nvidia")
@pytest.mark.parametrize("name", SMALL)
def test_a_model_agrees_on_a_gpu(name: str, tmp_path: Path) -> None:
    made = compiled(name, find_target("cuda"), tmp_path, Emit.SHARED, Emit.SOURCE)
    _, inputs, expected = captured(name)
    source = (made.path / "source" / SOURCE).read_text()
    found = run_artifact(made.path, source, inputs)[: len(expected)]
    assert largest_error(found, expected) <= LIMIT


def unpacked(data: bytes, made: Compiled, expected: Sequence[torch.Tensor]) -> list[NDArray[Any]]:
    """The outputs that lie one behind the other."""
    found, start = [], 0
    for port, tensor in zip(made.manifest["outputs"], expected, strict=True):
        piece = data[start : start + port["bytes"]]
        dtype = tensor.numpy().dtype
        found.append(np.frombuffer(piece, dtype).reshape(port["shape"]))
        start += port["bytes"]
    assert start == len(data)
    return found
