"""Kernels for ARM, run by qemu, against the reference."""

from __future__ import annotations

import pytest

from optc.ir.dtype import DType
from optc.ir.ops import LayerNorm, ReduceSum, Softmax, Transpose, ew
from tests.backends.tvm.crossed import run_crossed
from tests.backends.tvm.templates.test_batch_matmul import matmul
from tests.backends.tvm.templates.test_gemm import linear
from tests.backends.tvm.templates.test_generic import single

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
