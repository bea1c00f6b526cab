"""Artifacts of hand-written kernels: what runs them needs no kernel compiler."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optc.backends.aot.link import Toolchain, find_toolchain
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

HERE = Path(__file__).parent
HOST = f"{platform.machine()}-linux-gnu"
N = 1024

KernelObject = Callable[[str], bytes]


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled runtimes and C libraries, kept from one test run to the next."""
    kept = getattr(request.config, "cache", None)
    return Path(kept.mkdir("aot")) if kept else tmp_path_factory.mktemp("aot")


@pytest.fixture(scope="session")
def toolchain(cache: Path) -> Toolchain:
    """For this machine."""
    return find_toolchain(HOST, cache)


@pytest.fixture(scope="session")
def kernel_object(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> KernelObject:
    """The object of kernels.c for a triple."""
    built: dict[str, bytes] = {}

    def build(triple: str) -> bytes:
        if triple not in built:
            folder = tmp_path_factory.mktemp("kernels")
            (folder / "kernels.c").write_bytes((HERE / "kernels.c").read_bytes())
            find_toolchain(triple, cache).compile(["kernels.c"], folder)
            built[triple] = (folder / "kernels.o").read_bytes()
        return built[triple]

    return build


@pytest.fixture(scope="session")
def adder(kernel_object: KernelObject) -> Program:
    """y = 2 * (x + weights), 1024 f32, through one arena buffer."""
    arena = Operand(Space.ARENA, 0)
    add = (Operand(Space.INPUT, 0), Operand(Space.WEIGHTS, 4096), arena)
    calls = (
        Call("k_add", add, "add bias @ model.py:3", N, 12 * N),
        Call("k_double", (arena, Operand(Space.OUTPUT, 0)), "double", N, 8 * N),
    )
    return Program(
        name="adder",
        inputs=(Port("x", (N,), DType.F32),),
        outputs=(Port("y", (N,), DType.F32),),
        segments=(Segment("main", calls),),
        flow=(RunSegment("main"),),
        objects=(kernel_object(HOST),),
        triple=HOST,
        arena_bytes=4 * N,
        weights=place_weights([np.zeros(N, np.float32), np.arange(N, dtype=np.float32)]),
    )


@pytest.fixture(scope="session")
def adder_folder(adder: Program, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of `adder`; tests that change it copy it first."""
    return write_artifact(adder, tmp_path_factory.mktemp("adder") / "out", cache=cache).path


@pytest.fixture
def without_ports(adder: Program) -> Program:
    """A program with the kernels only, to be filled in by a test."""
    return replace(
        adder, name="bare", inputs=(), outputs=(), segments=(), flow=(), arena_bytes=0, weights=()
    )
