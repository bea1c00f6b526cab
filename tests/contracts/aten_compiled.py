"""Sample calls through the whole compiler: captured, evaluated, compiled for the host and run.

Most of an export and of a compilation is spent once for any size, so the calls of several packets
share one. What cannot be captured or compiled is halved until the call to blame stands alone.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import optc
from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.reference.evaluate import run
from optc.driver import compile_module
from optc.ir.capture import capture
from optc.ir.capture.coverage import coverage
from optc.ir.dtype import DType
from optc.ir.module import Module
from optc.ir.targets.detect import host
from optc.ir.verify import verify
from tests.contracts.aten_by_hand import Call
from tests.contracts.aten_samples import Case, case, tensors

CALLS = 150  # of one compilation
SUPPORTED = [item.name for item in coverage() if item.counts and item.supported]
_HALVES = {"grid_sampler_2d": "coordinates of an 8-bit mantissa are pixels apart"}
_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Sample:
    """The call of a packet that is number `number` of its samples."""

    packet: str
    number: int
    call: Call

    def __str__(self) -> str:
        leaves = pytree.tree_leaves((self.call.args, dict(self.call.kwargs)))
        return f"{self.packet}, sample {self.number} ({', '.join(map(_spelt, leaves))})"

    def wanted(self) -> list[Tensor]:
        """What torch computes, complex numbers as pairs."""
        return [pairs(x) for x in tensors(self.call.function(*self.call.args, **self.call.kwargs))]

    def precise(self) -> list[Tensor]:
        """What torch computes when f16 and bf16 are widened first, rounded once at the end."""
        args, kwargs = pytree.tree_map(_widened, (self.call.args, dict(self.call.kwargs)))
        results = [pairs(x) for x in tensors(self.call.function(*args, **kwargs))]
        return [x.to(y.dtype) for x, y in zip(results, self.wanted(), strict=True)]


@dataclass(frozen=True, slots=True)
class Measured:
    """How the samples of one packet fared."""

    samples: int
    dtypes: tuple[str, ...]
    failures: tuple[str, ...]


@functools.cache
def measure(packet: str) -> Measured:
    """Compile and compare all samples of the packet, together with those of its neighbours."""
    (batch,) = (names for names in _batches() if packet in names)
    return _measured(batch)[packet]


@functools.cache
def _batches() -> tuple[tuple[str, ...], ...]:
    batches: list[list[str]] = [[]]
    calls = 0
    for packet in SUPPORTED:
        calls += len(case(packet).calls)
        batches[-1].append(packet)
        if calls >= CALLS:
            batches.append([])
            calls = 0
    return tuple(map(tuple, batches))


@functools.cache
def _measured(packets: tuple[str, ...]) -> Mapping[str, Measured]:
    samples = {name: _samples(name) for name in packets}
    failures = list(failures_of([sample for group in samples.values() for sample in group]))
    return {
        name: Measured(
            len(group),
            _dtypes(group),
            tuple(text for sample, text in failures if sample.packet == name),
        )
        for name, group in samples.items()
    }


def _samples(packet: str) -> list[Sample]:
    return [Sample(packet, number, call) for number, call in enumerate(case(packet).calls)]


def failures_of(samples: Sequence[Sample]) -> Iterator[tuple[Sample, str]]:
    """Each sample that fails, with a sentence; one sample may fail several times."""
    together = Case("samples", tuple(sample.call for sample in samples))
    try:
        module = capture(together.module(), together.inputs)
        assert not verify(module)
        evaluated = list(_evaluated(module, together.inputs))
        compiled = list(_compiled(module, together.inputs))
    except Exception as problem:  # whatever a pass, a template or the backend raises
        if len(samples) == 1:
            yield samples[0], f"{samples[0]}: {type(problem).__name__}: {problem}"
            return
        half = len(samples) // 2
        yield from failures_of(samples[:half])
        yield from failures_of(samples[half:])
        return
    for sample in samples:
        count = len(sample.wanted())
        for how, values in (("evaluated", evaluated), ("compiled", compiled)):
            difference = _difference(sample, values[:count])
            if difference:
                yield sample, f"{sample}, {how}: {difference}"
            del values[:count]
    assert not evaluated
    assert not compiled


def _evaluated(module: Module, inputs: Sequence[Tensor]) -> Iterator[Tensor]:
    names = [port.name for port in module.inputs]
    yield from run(module, dict(zip(names, map(pairs, inputs), strict=True))).outputs.values()


def _compiled(module: Module, inputs: Sequence[Tensor]) -> Iterator[Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        path = compile_module(module, host(), Path(folder, "out")).path
        with optc.load(path) as artifact:
            outputs = pytree.tree_leaves(artifact(*map(_array, inputs)))
            kinds = [DType(port.dtype) for port in artifact.outputs]
    for output, kind in zip(outputs, kinds, strict=True):
        bits = torch.from_numpy(output)
        yield bits.view(torch.bfloat16) if kind is DType.BF16 else bits


def _difference(sample: Sample, found: list[Tensor]) -> str:
    """What differs from torch's results, or an empty text.

    Some of torch's ops round f16 and bf16 at every step; there the results in f32 count as well.
    """
    difference = _unequal(found, sample.wanted())
    if difference and any(x.dtype in _HALVES for x in found):
        return _unequal(found, sample.precise())
    return difference


def _unequal(found: list[Tensor], wanted: list[Tensor]) -> str:
    """Dtype, shape or numbers beyond rounding; integers and bools must be equal."""
    for ours, theirs in zip(found, wanted, strict=True):
        loose = {"rtol": 1e-4, "atol": 1e-5} if theirs.dtype is torch.float32 else {}
        try:
            torch.testing.assert_close(ours, theirs, equal_nan=True, **loose)
        except AssertionError as problem:
            return str(problem)
    return ""


def pairs(x: Tensor) -> Tensor:
    """A complex tensor as the artifact takes and gives it."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _array(x: Tensor) -> np.ndarray[Any, Any]:
    x = pairs(x.detach()).contiguous()
    return x.view(torch.uint16).numpy() if x.dtype is torch.bfloat16 else x.numpy()


def _widened(item: object) -> object:
    return item.float() if isinstance(item, Tensor) and item.dtype in _HALVES else item


def _dtypes(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Dtypes of the tensors that the calls take, and of the results of those that take none."""
    found = {
        x.dtype
        for sample in samples
        for x in tensors((sample.call.args, dict(sample.call.kwargs))) or sample.wanted()
    }
    return tuple(
        kind.value for kind in DType if kind is not DType.I4 and TORCH_DTYPE[kind] in found
    )


def _spelt(item: object) -> str:
    if not isinstance(item, Tensor):
        return str(item)
    return "x".join(map(str, (*item.shape, str(item.dtype).removeprefix("torch."))))
