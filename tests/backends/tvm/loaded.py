"""Kernels on this machine: graphs to objects to a shared library, called on torch tensors."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.tvm.codegen import PARALLEL_LAUNCH, compile_functions
from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.plan import Knobs, Pack, Plan, Problem
from optc.ir.graph import Graph
from optc.ir.targets.detect import host, runs_here
from optc.ir.targets.target import Target

_BODY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_THREADS = 3  # an odd number: shares are unequal, and some may be empty


class _Group(ctypes.Structure):
    _fields_ = (("sync", ctypes.c_void_p), ("count", ctypes.c_int32))


def _run_in_turn(body: int, data: int, count: int) -> int:
    """A parallel region on one thread, last share first: what one share needs of another shows."""
    group = _Group(None, count or _THREADS)
    results = [
        _BODY(body)(task, ctypes.addressof(group), data) for task in reversed(range(group.count))
    ]
    return max(results, key=abs)


class Loaded:
    """The kernels of some task bodies; `constants` has the constant inputs of each, if any.

    `choice` picks among the knobs that a template proposes: the first one unless asked otherwise.
    `plan` takes the place of the list of templates and their choice.
    """

    def __init__(
        self,
        bodies: Sequence[Graph],
        constants: Sequence[frozenset[int]] | None = None,
        target: Target | None = None,
        choice: int = 0,
        plan: Callable[[Problem], tuple[Plan, Knobs]] | None = None,
    ) -> None:
        self._bodies, target = bodies, target or host()
        if not runs_here(target):
            pytest.skip(f"this machine has not all instructions of {target.name}")
        functions = []
        self.templates: list[str] = []
        self._packs: list[Mapping[int, Pack]] = []
        for number, body in enumerate(bodies):
            known = constants[number] if constants else frozenset()
            problem = Problem(body, known, target)
            made, knobs = plan(problem) if plan else _proposed(problem, choice)
            emitted = made.emit(f"k{number}", knobs)
            functions.append(emitted.function)
            self._packs.append(emitted.packs)
            self.templates.append(emitted.template or made.template)
        compiled = compile_functions(functions, target)
        self._workspace, self._library = compiled.workspace, _linked(compiled.data)
        self._launch = _LAUNCH(_run_in_turn)
        pointer = ctypes.c_void_p.in_dll(self._library, PARALLEL_LAUNCH)
        pointer.value = ctypes.cast(self._launch, ctypes.c_void_p).value

    def __call__(self, number: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of the `number`-th body."""
        held = [
            packed(tensor, self._packs[number].get(place)).contiguous()
            for place, tensor in enumerate(inputs)
        ]
        outputs = [
            torch.zeros(value.type.shape, dtype=TORCH_DTYPE[value.type.dtype])
            for value in self._bodies[number].outputs
        ]
        scratch = torch.zeros(self._workspace[f"k{number}"] + 64, dtype=torch.uint8)
        addresses = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (*held, *outputs)]
        if self._workspace[f"k{number}"]:
            addresses.append(ctypes.c_void_p(-(-scratch.data_ptr() // 64) * 64))
        status = self._library[f"k{number}"](*addresses)
        assert status == 0
        return outputs


def _proposed(problem: Problem, choice: int) -> tuple[Plan, Knobs]:
    plan, _ = match(problem)
    knobs = plan.candidates()
    return plan, knobs[choice % len(knobs)]


def packed(tensor: Tensor, pack: Pack | None) -> Tensor:
    """The tensor in the layout that a kernel wants."""
    if pack is None:
        return tensor
    storage = tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor
    return torch.from_numpy(pack(storage.numpy()))


_ZIG = (sys.executable, "-m", "ziglang")


def _linked(data: bytes) -> ctypes.CDLL:
    ctypes.CDLL("libm.so.6", ctypes.RTLD_GLOBAL)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("kernels.o", data), ("launch.o", _launch_object())):
            Path(folder, name).write_bytes(content)
        command = (*_ZIG, "ld.lld", "-shared", "kernels.o", "launch.o", "-o", "kernels.so")
        subprocess.run(command, check=True, cwd=folder)
        return ctypes.CDLL(str(Path(folder, "kernels.so")))


@cache
def _launch_object() -> bytes:
    """The pointer that a runtime would define."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "launch.c").write_text(f"void *{PARALLEL_LAUNCH};\n")
        command = (*_ZIG, "cc", "-c", "-fPIC", "launch.c", "-o", "launch.o")
        subprocess.run(command, check=True, cwd=folder)
        return Path(folder, "launch.o").read_bytes()
