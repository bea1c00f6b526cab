"""Products and convolutions of bytes for ARM, run by qemu, have the reference's bits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from optc.backends.reference.evaluate import run_graph
from optc.backends.tvm.templates.dot import dot_of
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
