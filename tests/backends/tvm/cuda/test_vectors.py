"""Elements in vectors: what is read from neighbour to neighbour, and all that is not."""

from __future__ import annotations

import platform
import re

import pytest

from optc.backends.aot.nvrtc import find_device_compiler
from optc.backends.device import PREAMBLE
from optc.backends.kernel import Job
from optc.backends.program import DeviceCode
from optc.backends.tvm.cuda import vectors
from optc.backends.tvm.cuda.kernel import build
from optc.backends.tvm.cuda.task import Task
from optc.backends.tvm.cuda.vectors import elementwise_in_vectors, neighbours
from optc.backends.tvm.templates.plan import Miss
from optc.ir.dtype import DType
from optc.ir.ops import Concat, Pad, Slice, Transpose, ew
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.cuda_emulator import Order
from tests.backends.tvm.cuda.launched import Launched
from tests.backends.tvm.templates.agreement import Case, body

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the emulator switches stacks on x86-64 only"
)


def types(dtype: DType, *shapes: tuple[int, ...]) -> list[TensorType]:
    return [TensorType(shape, dtype) for shape in shapes]


# Buffers that are read in vectors, of those that are read.
CASES: dict[str, tuple[Case, int]] = {
    "halves": (
        body(types(DType.F16, (3, 5, 16), (3, 5, 16)), lambda b, x, y: b.emit(ew.Add(), x, y)),
        2,
    ),
    "bf16": (body(types(DType.BF16, (7, 24)), lambda b, x: b.emit(ew.Relu(), x)), 1),
    "rows and columns": (
        body(
            types(DType.F32, (6, 12), (12,), (6, 1)),
            lambda b, x, row, column: b.emit(ew.Mul(), b.emit(ew.Add(), x, row), column),
        ),
        2,
    ),
    "wider than its result": (
        body(types(DType.F32, (4, 32)), lambda b, x: b.emit(ew.Cast(DType.F16), x)),
        1,
    ),
    "turned": (body(types(DType.F32, (8, 12)), lambda b, x: b.emit(Transpose((1, 0)), x)), 0),
    "part": (
        body(types(DType.F32, (5, 16)), lambda b, x: b.emit(Slice((0, 2), (5, 14), (1, 1)), x)),
        0,
    ),
    "aligned part": (
        body(types(DType.F32, (5, 16)), lambda b, x: b.emit(Slice((1, 4), (5, 12), (1, 1)), x)),
        1,
    ),
    "edges": (
        body(types(DType.F32, (5, 14)), lambda b, x: b.emit(Pad((1, 1), (0, 1)), x)),
        0,
    ),
    "joined": (
        body(types(DType.F16, (3, 8), (3, 16)), lambda b, x, y: b.emit(Concat(1), x, y)),
        0,
    ),
    "bools": (
        body(types(DType.F32, (9, 16), (9, 16)), lambda b, x, y: b.emit(ew.Less(), x, y)),
        0,
    ),
}


def test_vectors_agree_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_FEW", 0)
    kernels = Launched([case.body for case, _ in CASES.values()])
    for number, (name, (case, wanted)) in enumerate(CASES.items()):
        source = kernels.kernels[number].source
        assert source.count("optc_load<") == wanted, name
        assert source.count("optc_store<") == (name != "bools"), name
        for order, shift in ((Order.FORWARD, 0), (Order.BACKWARD, 4)):
            found = kernels(number, case.inputs(number), order, shift)
            case.compare(number, found, f"{name}, shifted by {shift}")


@pytest.mark.needs("package:nvidia")
def test_vectors_are_vectors_on_the_device() -> None:
    shapes = [(64, 4096)] * 2
    add = body(types(DType.BF16, *shapes), lambda b, x, y: b.emit(ew.Add(), x, y))
    kernel = build(Job(add.body, frozenset()), find_target("cuda"))
    code = DeviceCode("sm_80", PREAMBLE + kernel.source)
    ptx = find_device_compiler().compile(code).ptx.decode()
    assert len(re.findall(r"ld\.global\S*\.v4\.\w32", ptx)) == 2
    assert len(re.findall(r"st\.global\S*\.v4\.\w32", ptx)) == 1
    assert ".local" not in ptx


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((64, 1024), DType.F64, ""),
        ((64, 1021), DType.F32, "no multiple of 4"),
        ((8, 16), DType.F32, "too few"),
    ],
)
def test_what_is_computed_one_by_one_says_why(
    shape: tuple[int, ...], dtype: DType, reason: str
) -> None:
    case = body(types(dtype, shape), lambda b, x: b.emit(ew.Neg(), x))
    (step,) = Task(case.body, "probe").steps()
    found = elementwise_in_vectors(step)
    assert (reason in found.reason) if isinstance(found, Miss) else not reason
    assert len(neighbours(step, 2)) == (shape[-1] % 2 == 0)
