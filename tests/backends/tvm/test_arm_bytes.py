"""Products and convolutions of bytes and bf16 for ARM, run by qemu, have the reference's bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from optc.backends.reference.evaluate import run_graph
from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.dot import dot_of, in_pairs
from optc.backends.tvm.templates.paired_conv import PairedPlan
from optc.backends.tvm.templates.plan import Problem
from optc.ir.dtype import DType
from optc.ir.ops import Conv, Linear, MatMul
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.byte_graphs import Bytes
from tests.backends.tvm.bytes import I8, U8, Task, task
from tests.backends.tvm.crossed import run_crossed
from tests.backends.tvm.templates.agreement import Case


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
            (Conv((2, 1), ((2, 1),) * 2, (1, 1), 41, True), (1, 9, 22, 41), (41, 1, 5, 4)),
        ):
            found.append(task(op, TensorType(shape, kind), TensorType(kernel, I8), "requantize"))
    return [Bytes(item.body, item.constants) for item in found]


SAME = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))
# (the op, shapes of image and weights): what pairs of positions meet.
WINDOWS = {
    "pointwise": (Conv((1, 1), NONE, (1, 1), 1, True), (2, 7, 7, 16), (12, 16, 1, 1)),
    "pointwise, steps": (Conv((2, 2), NONE, (1, 1), 1, True), (1, 9, 8, 24), (20, 24, 1, 1)),
    "odd channels": (Conv((1, 1), NONE, (1, 1), 1, True), (1, 5, 6, 5), (7, 5, 1, 1)),
    "ragged": (Conv((1, 1), SAME, (1, 1), 1, True), (2, 13, 11, 8), (37, 8, 3, 3)),
    "small map": (Conv((1, 1), SAME, (1, 1), 1, True), (1, 3, 3, 16), (20, 16, 3, 3)),
    "first layer": (Conv((1, 1), ((0, 1), (2, 0)), (1, 1), 1, True), (1, 9, 14, 3), (9, 3, 3, 2)),
    "dilated": (Conv((1, 2), ((2, 2), (3, 1)), (2, 2), 1, True), (1, 9, 15, 8), (8, 8, 3, 3)),
    "one axis": (Conv((1,), ((2, 2),), (1,), 1, True), (2, 29, 12), (10, 12, 5)),
    "three axes": (Conv((1, 1, 1), ((1, 1),) * 3, (1, 1, 1), 1, True), (1, 4, 5, 6, 8),
                   (9, 8, 3, 3, 3)),
}  # fmt: skip
BF16 = DType.BF16


def windows(kind: DType, epilogue: str = "") -> list[Task]:
    """Of halves only those whose channels fill words: `paired-conv` leaves the others."""
    right = kind if kind is BF16 else I8
    every = [w for w in WINDOWS.values() if kind is not BF16 or w[1][-1] % 4 == 0]
    return [
        task(op, TensorType(image, kind), TensorType(weight, right), epilogue)
        for op, image, weight in every
    ]


@pytest.mark.needs("tool:qemu-aarch64-static")
def test_windows_by_pairs() -> None:
    target = find_target("neoverse-v1")
    items = [*windows(U8, "requantize"), *windows(I8, "bias"), *windows(BF16)]
    for item in items:
        plan, _ = match(Problem(item.body, item.constants, target))
        assert plan.template.startswith("paired-conv/")
    kinds = [Halves if item.body.inputs[0].type.dtype is BF16 else Bytes for item in items]
    every = [kind(item.body, item.constants) for kind, item in zip(kinds, items, strict=True)]
    found = run_crossed(every, "neoverse-v1", "aarch64-linux-musl", "qemu-aarch64-static")
    for number, (case, outputs) in enumerate(zip(every, found, strict=True)):
        (wanted,) = run_graph(case.body, case.inputs(number))
        assert torch.equal(outputs[0], wanted), f"case {number}"


@pytest.mark.needs("tool:qemu-aarch64-static")
@pytest.mark.parametrize("vectors", [1, 2, 3, 5])
def test_every_tile_of_windows(vectors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All heights and widths that a setting may have, whichever the estimate likes."""
    op, image, weight = WINDOWS["ragged"]
    item = task(op, TensorType(image, I8), TensorType(weight, I8), "bias")
    case = Bytes(item.body, item.constants)
    plan, _ = match(Problem(item.body, item.constants, find_target("neoverse-v1")))
    chosen = [knobs for knobs in plan.candidates() if knobs.vectors == vectors]
    assert chosen
    order = iter([knobs for n in chosen for knobs in (n, replace(n, by_weights=not n.by_weights))])
    monkeypatch.setattr(PairedPlan, "candidates", lambda _: [next(order)])
    every = [case] * (2 * len(chosen))
    found = run_crossed(every, "neoverse-v1", "aarch64-linux-musl", "qemu-aarch64-static")
    for number, outputs in enumerate(found):
        (wanted,) = run_graph(case.body, case.inputs(number))
        assert torch.equal(outputs[0], wanted), str(chosen[number // 2])


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
