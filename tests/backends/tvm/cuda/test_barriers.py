"""Every barrier and every wait of the schemes that share memory is needed, and its lack is seen.

Inputs are zeros: the emulator's races depend on who touches which byte, not on what is there.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from optc.backends.device import PREAMBLE
from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.tvm.cuda.kernel import CudaKernel
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.ops import Attention, LayerNorm, Linear, Op, ReduceSum, Softmax
from optc.ir.types import TensorType
from tests.backends.cuda_emulator import Misuse, emulate
from tests.backends.tvm.cuda.launched import Launched

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the emulator switches stacks on x86-64 only"
)
_MEETING = re.compile(r"__syncthreads\(\);|optc_wait<\d>\(\);")


def body(op: Op, *shapes: tuple[int, ...], dtype: DType = DType.F32, wide: bool = False) -> Graph:
    builder = Builder("body")
    kinds = [dtype] * (len(shapes) - wide) + [DType.I32] * wide
    types = [TensorType(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
    return builder.build([builder.emit(op, *(builder.input(type_) for type_ in types))])


@dataclass(frozen=True)
class Case:
    """A body, and how many of its barriers order nothing that two threads touch."""

    body: Graph
    idle: int = 0


CASES = {
    # Behind the exponentials: each thread sums up what it wrote itself.
    "softmax": Case(body(Softmax(axis=1), (5, 700)), idle=1),
    "layer norm": Case(body(LayerNorm(), (3, 100), (100,), (100,))),
    "sum": Case(body(ReduceSum((1,)), (7, 3000))),
    "product": Case(body(Linear(), (40, 70), (50, 70), (50,))),
    "product, f16": Case(body(Linear(), (40, 300), (48, 300), (48,), dtype=DType.F16)),
    "product, i8": Case(body(Linear(), (40, 300), (48, 300), (48,), dtype=DType.I8, wide=True)),
    "attention": Case(body(Attention(scale=0.2), (1, 2, 40, 24), *[(1, 2, 200, 24)] * 2)),
    "attention, f16": Case(
        body(Attention(scale=0.2), (1, 2, 40, 24), *[(1, 2, 600, 24)] * 2, dtype=DType.F16)
    ),
}


def mutants(kernel: CudaKernel) -> Iterator[tuple[str, CudaKernel]]:
    """The kernel without one of its barriers or waits, and the line that is missing."""
    for number, found in enumerate(_MEETING.finditer(kernel.source)):
        text = kernel.source[: found.start()] + kernel.source[found.end() :]
        symbol = f"{kernel.symbol}m{number}"
        launches = tuple(
            replace(launch, symbol=launch.symbol.replace(kernel.symbol, symbol))
            for launch in kernel.launches
        )
        line = kernel.source.count("\n", 0, found.start()) + 1
        source = text.replace(kernel.symbol, symbol)
        yield f"line {line}: {found[0]}", replace(kernel, source=source, launches=launches)


@pytest.mark.parametrize("name", CASES)
def test_a_barrier_that_lacks_is_a_race(name: str) -> None:
    case = CASES[name]
    launched = Launched([case.body])
    inputs = [torch.zeros(v.shape, dtype=TORCH_DTYPE[v.type.dtype]) for v in case.body.inputs]
    launched(0, inputs)
    found = dict(mutants(launched.kernels[0]))
    assert found
    launched.kernels = list(found.values())
    launched.bodies = [case.body] * len(found)
    launched.emulated = emulate("\n".join([PREAMBLE, *(k.source for k in found.values())]))
    missed = []
    for number, line in enumerate(found):
        problem = _problem(launched, number, inputs)
        assert not problem or "a race" in problem
        missed += [] if problem else [line]
    assert len(missed) == case.idle, missed


def _problem(launched: Launched, number: int, inputs: Sequence[torch.Tensor]) -> str:
    """What the emulator says of a body's launches."""
    try:
        launched(number, inputs)
    except Misuse as problem:
        return str(problem)
    return ""
