"""Kernels for ARM, run by qemu, against the reference."""

from __future__ import annotations

import pytest

from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.gemm import GemmPlan
from optc.backends.tvm.templates.plan import Problem
from optc.ir.diagnostics import OptcError
from optc.ir.dtype import DType
from optc.ir.ops import Conv, LayerNorm, ReduceMean, ReduceSum, Softmax, Transpose, ew
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.crossed import run_crossed
from tests.backends.tvm.templates.agreement import Case
from tests.backends.tvm.templates.agreement import body as case_of
from tests.backends.tvm.templates.test_batch_matmul import matmul
from tests.backends.tvm.templates.test_gemm import linear
from tests.backends.tvm.templates.test_generic import single


def window(
    batch: int, height: int, width: int, channels: int, outputs: int, stride: int = 1
) -> Case:
    """A 3x3 convolution with its border."""
    op = Conv((stride, stride), ((1, 1), (1, 1)), (1, 1), 1, True)
    image = TensorType((batch, height, width, channels), DType.F32)
    weight = TensorType((outputs, channels, 3, 3), DType.F32)
    return case_of([image, weight], lambda b, x, w: b.emit(op, x, w), constants=[1])


CASES = (
    linear(1, 5, 7),
    linear(13, 33, 17, epilogue="gelu residual"),
    linear(29, 100, 40),
    linear(5, 20, 9, DType.F16, "relu"),
    linear(5, 20, 9, DType.BF16),
    matmul((2, 3, 17, 7), (1, 3, 7, 9), True, DType.F32),
    matmul((4, 9, 8), (4, 8, 21), False, DType.F32),
    single(Softmax(axis=1), (7, 33)),
    single(LayerNorm(), (3, 100), (100,), (100,)),
    single(ReduceSum((0,)), (70, 37)),
    single(Transpose((1, 0)), (30, 51)),
    single(ew.Tanh(), (3, 77)),
    single(ew.Sin(), (77,)),
    single(ew.Pow(), (40,), (40,)),
    single(ew.Exp(), (77,), dtype=DType.F16),
)


@pytest.mark.parametrize(
    ("target", "triple", "emulator"),
    [
        pytest.param(
            "cortex-a76",
            "aarch64-linux-musl",
            "qemu-aarch64-static",
            marks=pytest.mark.needs("tool:qemu-aarch64-static"),
        ),
        pytest.param(
            "aarch64",
            "aarch64-linux-musl",
            "qemu-aarch64-static",
            marks=pytest.mark.needs("tool:qemu-aarch64-static"),
        ),
        pytest.param(
            "armv7",
            "arm-linux-musleabihf",
            "qemu-arm-static",
            marks=pytest.mark.needs("tool:qemu-arm-static"),
        ),
    ],
)
def test_kernels_for_arm(target: str, triple: str, emulator: str) -> None:
    for number, outputs in enumerate(run_crossed(CASES, target, triple, emulator)):
        CASES[number].compare(number, outputs, f"case {number} on {target}")


# Floats in scalable vectors, what moves and folds them, and bytes beside them, which NEON takes.
SCALABLE = (
    *CASES[:4],
    *CASES[5:],
    window(1, 9, 10, 8, 20),
    window(2, 11, 9, 3, 17, stride=2),
    window(1, 14, 14, 32, 32),
    matmul((2, 5, 9), (2, 9, 12), False, DType.F64),
    single(ReduceMean((1,)), (7, 65)),
    single(ew.Add(), (5, 19), (19,), dtype=DType.I32),
)


@pytest.mark.needs("tool:qemu-aarch64-static")
@pytest.mark.parametrize(
    ("target", "nbytes"),
    [
        ("neoverse-v1:sve=256", 32),
        ("neoverse-v1:sve=256", 128),
        ("a64fx", 64),
        ("a64fx", 256),
    ],
)
def test_scalable_vectors_of_several_lengths(
    target: str, nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEMU_CPU", f"max,sve-default-vector-length={nbytes}")
    found = run_crossed(SCALABLE, target, "aarch64-linux-musl", "qemu-aarch64-static")
    for number, outputs in enumerate(found):
        SCALABLE[number].compare(number, outputs, f"case {number} on {target}, {nbytes} bytes")


def test_floats_are_scalable_where_the_target_names_a_length() -> None:
    """`z` registers are SVE's; bytes stay with NEON's dot products."""
    wide, plain = (find_target(f"neoverse-v1{option}") for option in (":sve=256", ""))
    assert (wide.lanes(DType.F32), plain.lanes(DType.F32)) == (8, 4)
    assert "sve256" in wide.features
    with pytest.raises(OptcError, match="E0141"):
        find_target("cortex-a76:sve=256")
    byte = linear(13, 33, 17, DType.BF16)
    for case, bits in ((linear(13, 33, 17), 256), (byte, 128)):
        plan, _ = match(Problem(case.body, case.constants, wide))
        assert isinstance(plan, GemmPlan)
        assert plan.task.problem.target.vector_bits == bits
