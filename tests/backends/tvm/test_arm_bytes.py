"""Products and convolutions of bytes and bf16 for ARM, run by qemu, have the reference's bits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from optc.backends.reference.evaluate import run_graph
from optc.backends.tvm.templates.dot import dot_of, in_pairs
from optc.ir.dtype import DType
from optc.ir.ops import Conv, Linear, MatMul
from optc.ir.targets.catalogue import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.bytes import I8, U8, Task, numbers, task
from tests.backends.tvm.crossed import run_crossed
from tests.backends.tvm.templates.agreement import Case


@dataclass(frozen=True)
class Bytes(Case):
    """A case whose numbers provoke."""

    def inputs(self, seed: int) -> list[Tensor]:
        """Bytes near the ends of their range in every other case."""
        extreme = seed % 2 == 1
        return [
            numbers(value.type, 10 * seed + i, extreme=extreme)
            for i, value in enumerate(self.body.inputs)
        ]


def cases() -> list[Bytes]:
    found: list[Task] = []
    for kind in (U8, I8):
        for m, n, k, epilogue in ((1, 5, 7, ""), (13, 33, 17, "requantize"), (9, 40, 300, "bias")):
            x, weight = TensorType((m, k), kind), TensorType((n, k), I8)
            found.append(task(Linear(), x, weight, epilogue))
        a, b = TensorType((2, 5, 9), kind), TensorType((2, 9, 12), U8 if kind is I8 else I8)
        found.append(task(MatMul(), a, b, constant=False))
        for op, shape, kernel in (
            (Conv((1, 1), ((1, 1),) * 2, (1, 1), 1, True), (1, 9, 9, 8), (12, 8, 3, 3)),
            (Conv((2, 2), ((1, 1),) * 2, (1, 1), 1, True), (1, 11, 9, 3), (12, 3, 3, 3)),
            (Conv((1, 1), ((1, 1),) * 2, (1, 1), 16, True), (1, 7, 9, 16), (16, 1, 3, 3)),
        ):
            found.append(task(op, TensorType(shape, kind), TensorType(kernel, I8), "requantize"))
    return [Bytes(item.body, item.constants) for item in found]


@pytest.mark.needs("tool:qemu-aarch64-static")
@pytest.mark.parametrize("target", ["aarch64", "cortex-a76", "neoverse-v1"])
def test_bytes_for_arm(target: str) -> None:
    every = cases()
    found = run_crossed(every, target, "aarch64-linux-musl", "qemu-aarch64-static")
    for number, (case, outputs) in enumerate(zip(every, found, strict=True)):
        (wanted,) = run_graph(case.body, case.inputs(number))
        assert torch.equal(outputs[0], wanted), f"case {number} on {target}"


def test_dot_products_follow_the_features() -> None:
    names = [dot_of(find_target(name), U8, I8).intrinsic for name in ("aarch64", "cortex-a76")]
    assert names[0] == ""
    assert names[1].endswith("sdot")
    assert dot_of(find_target("neoverse-v1"), U8, I8).intrinsic.endswith("usdot")
    assert dot_of(find_target("neoverse-v1"), I8, I8).intrinsic.endswith("sdot")
    pairs = [in_pairs(find_target(name), I8, I8) for name in ("cortex-a76", "neoverse-v1")]
    assert [dot.pairs for dot in pairs] == [False, True]


@dataclass(frozen=True)
class Halves(Case):
    """A case of small whole numbers: sums of their products are exact in any order."""

    def inputs(self, seed: int) -> list[Tensor]:
        """Bf16 from -3 to 3."""
        made = torch.Generator().manual_seed(seed)
        return [
            torch.randint(-3, 4, value.shape, generator=made).to(torch.bfloat16)
            for value in self.body.inputs
        ]


def halves() -> list[Halves]:
    found: list[Task] = []
    for m, n, k in ((1, 5, 7), (2, 4, 8), (13, 33, 17), (9, 40, 300)):
        types = TensorType((m, k), DType.BF16), TensorType((n, k), DType.BF16)
        found.append(task(Linear(), *types))
    a, b = TensorType((2, 5, 9), DType.BF16), TensorType((2, 9, 12), DType.BF16)
    found.append(task(MatMul(), a, b, constant=False))
    op = Conv((1, 1), ((1, 1),) * 2, (1, 1), 1, True)
    image = TensorType((1, 9, 9, 8), DType.BF16), TensorType((12, 8, 3, 3), DType.BF16)
    found.append(task(op, *image))
    return [Halves(item.body, item.constants) for item in found]


@pytest.mark.needs("tool:qemu-aarch64-static")
@pytest.mark.parametrize("target", ["cortex-a76", "neoverse-v1"])
def test_halves_for_arm(target: str) -> None:
    every = halves()
    found = run_crossed(every, target, "aarch64-linux-musl", "qemu-aarch64-static")
    for number, (case, outputs) in enumerate(zip(every, found, strict=True)):
        (wanted,) = run_graph(case.body, case.inputs(number))
        assert torch.equal(outputs[0], wanted), f"case {number} on {target}"
