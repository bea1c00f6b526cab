"""Convolutions of bytes have exactly the integers' results, whatever the instructions are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.backends.tvm.templates.conv import Convolution, ConvPack, ConvPlan
from optc.backends.tvm.templates.conv_knobs import ConvKnobs
from optc.backends.tvm.templates.dot import Words
from optc.backends.tvm.templates.plan import Problem
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Conv, ConvTranspose, MaxPool, Pad, Quantize, Transpose
from optc.ir.targets.detect import runs_here
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.bytes import EPILOGUES, I8, U8, Task, check, task, windows_templates

LEVELS = ("host", "x86-64-v4", "x86-64-v3", "x86-64-v2")
HERE = tuple(name for name in LEVELS if runs_here(find_target(name)))
Shape = tuple[int, ...]


def square(
    size: int = 1, stride: int = 1, pad: int = 0, dilation: int = 1, groups: int = 1
) -> Conv:
    return Conv((stride,) * 2, ((pad, pad),) * 2, (dilation,) * 2, groups, True)


def conv(
    op: Conv | ConvTranspose, x: Shape, weight: Shape, kind: DType, epilogue: str = ""
) -> Task:
    return task(op, TensorType(x, kind), TensorType(weight, I8), epilogue)


def bordered(number: int) -> Callable[[Builder, Value], Value]:
    """Padding by a zero point, as a quantized model writes it in front of a convolution."""

    def emit(builder: Builder, x: Value) -> Value:
        return builder.emit(Pad((0, 1, 1, 0), (0, 1, 2, 0), value=number), x)

    return emit


@pytest.mark.parametrize(
    ("target", "kind"), [("host", U8), ("host", I8), ("x86-64-v4", U8), ("x86-64-v3", I8)]
)
def test_layers_on_every_instruction_set(target: str, kind: DType) -> None:
    tasks = [
        conv(square(3, 1, 1), (1, 14, 14, 32), (48, 32, 3, 3), kind, "residual"),
        conv(square(3, 2, 1), (2, 15, 17, 24), (33, 24, 3, 3), kind, "float"),
        conv(square(7, 2, 3), (1, 23, 21, 3), (20, 3, 7, 7), kind, "requantize"),
        conv(square(), (1, 9, 9, 30), (20, 30, 1, 1), kind, "requantize"),
        conv(square(3, 1, 2, 2), (1, 11, 9, 5), (20, 5, 3, 3), kind, "bias"),
        conv(square(3, 1, 1, 1, 2), (1, 9, 9, 12), (20, 6, 3, 3), kind, "per tensor"),
    ]
    assert check(tasks, find_target(target)) == {"conv/3"}


def test_wide_rows_are_laid_out_by_the_thread_that_reads_them() -> None:
    def turned(builder: Builder, x: Value) -> Value:
        scale, zero = (builder.splat(n, TensorType((), t)) for n, t in ((0.5, DType.F32), (9, U8)))
        turned = builder.emit(Transpose((0, 2, 3, 1)), x)
        return bordered(9)(builder, builder.emit(Quantize(U8), turned, scale, zero))

    x, weight = TensorType((1, 3, 224, 224), DType.F32), TensorType((32, 3, 3, 3), I8)
    assert check([task(square(3, 2), x, weight, "requantize", before=turned)]) == {"conv/3"}


@pytest.mark.parametrize("kind", [U8, I8])
def test_borders_that_are_not_zero(kind: DType) -> None:
    x, weight = TensorType((2, 9, 7, 16), kind), TensorType((20, 16, 3, 3), I8)
    few, first = TensorType((1, 9, 9, 3), kind), TensorType((20, 3, 3, 3), I8)
    tasks = [
        task(square(3), x, weight, "requantize", before=bordered(7)),
        task(square(3, 1, 1), x, weight, before=bordered(7)),
        task(square(3, 2), few, first, "requantize", before=bordered(9)),
    ]
    assert check(tasks) == {"conv/3"}


@pytest.mark.parametrize("kind", [U8, I8])
def test_other_layouts_and_kinds(kind: DType) -> None:
    first = Conv((2, 2), ((1, 1), (1, 1)))
    image, weight = TensorType((1, 3, 19, 17), kind), TensorType((20, 3, 3, 3), I8)
    up = ConvTranspose((2, 2), ((1, 1), (1, 1)), (0, 0), (1, 1), 1, True)
    tasks = [
        task(first, image, weight, "requantize", axis=1),
        conv(up, (1, 7, 6, 8), (8, 20, 3, 3), kind, "bias"),
        conv(Conv((1,), ((1, 1),), (1,), 1, True), (2, 17, 8), (12, 8, 3), kind, "bias"),
    ]
    assert check(tasks) == {"conv/3"}


@pytest.mark.parametrize(("kernel", "outputs"), [(7, 64), (3, 32), (3, 16)])
def test_words_that_neighbours_read_too_stay_in_registers(kernel: int, outputs: int) -> None:
    target = find_target("znver4")
    op, x, weight = square(kernel, 2, kernel // 2), (1, 224, 224, 3), (outputs, 3, kernel, kernel)
    bytes_ = conv(op, x, weight, U8)
    plan = Convolution().match(Problem(bytes_.body, bytes_.constants, target))
    assert isinstance(plan, ConvPlan)
    for knobs in plan.candidates():
        assert isinstance(knobs, ConvKnobs)
        positions = knobs.rows * knobs.columns
        held = positions * knobs.vectors + positions + knobs.vectors
        assert held <= target.vector_registers * 3 // 4


@st.composite
def convolutions(draw: DrawFn) -> tuple[Conv, TensorType, TensorType]:
    size, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    pad, dilation = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs, outputs = draw(st.integers(2, 19)), draw(st.integers(2, 40))
    high, wide = (draw(st.integers(8, 20)) for _ in range(2))
    kind = draw(st.sampled_from((U8, I8)))
    op = square(size, stride, pad, dilation, groups)
    x = TensorType((draw(st.integers(1, 2)), high, wide, groups * inputs), kind)
    return op, x, TensorType((groups * outputs, inputs, size, size), I8)


@given(convolutions(), st.sampled_from(EPILOGUES), st.sampled_from(HERE), st.integers(0, 5))
@settings(max_examples=6, deadline=None)
def test_any_convolution(
    case: tuple[Conv, TensorType, TensorType], epilogue: str, target: str, choice: int
) -> None:
    assert check([task(*case, epilogue)], find_target(target), choice) == {"conv/3"}


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 6))
def test_packs_hold_every_weight_once(groups: int, outputs: int, inputs: int, taps: int) -> None:
    shape = (groups * outputs, inputs, 2, taps)
    weights = np.random.default_rng(taps).integers(-128, 128, shape).astype(np.int8)
    for joined in (1, taps):
        pack = ConvPack(groups, 32, 16, False, Words(I8, 4, -128), joined)
        packed = pack(weights)
        assert TensorType(packed.shape, DType.I32) == pack.type(TensorType(shape, I8))
        plain = ConvPack(groups, 32, 16, False, Words(I8, 4), joined)(weights)
        found, wanted = np.sort(plain.view(np.int8)), np.sort(weights.ravel())
        assert found[found != 0].tolist() == wanted[wanted != 0].tolist()
        sums = -128 * weights.astype(np.int64).sum(axis=(1, 2, 3))
        assert set(sums) <= set(packed.tolist())


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
def test_windows_of_one_channel(target: str) -> None:
    tasks = []
    for kind in (U8, I8):
        x, weight = TensorType((1, 9, 9, 16), kind), TensorType((16, 1, 3, 3), I8)
        tasks += [
            conv(square(3, 1, 1, 1, 40), (1, 14, 14, 40), (40, 1, 3, 3), kind, "requantize"),
            conv(square(3, 2, 1, 1, 33), (2, 15, 13, 33), (33, 1, 3, 3), kind, "residual"),
            conv(square(7, 1, 3, 1, 16), (1, 9, 9, 16), (16, 1, 7, 7), kind),
            task(square(3, groups=16), x, weight, "per tensor", before=bordered(5)),
        ]
    assert check(tasks, find_target(target)) <= windows_templates(target)


def test_pools_compare_bytes() -> None:
    tasks = []
    pool = MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), channels_last=True)
    for kind in (U8, I8):
        builder = Builder("pool")
        x = builder.input(TensorType((1, 17, 15, 70), kind))
        tasks.append(Task(builder.build([builder.emit(pool, x)]), frozenset()))
    assert check(tasks) == {"pool/3"}
