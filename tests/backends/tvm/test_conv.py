"""Convolutions by the direct template agree with torch: shapes, layouts, types, targets, fusion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optc.backends.reference.evaluate import run_graph
from optc.backends.tvm.codegen import compile_functions
from optc.backends.tvm.templates.conv import Convolution, ConvPack, ConvPlan
from optc.backends.tvm.templates.dot import Words
from optc.backends.tvm.templates.plan import Miss, Problem
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Conv, ConvTranspose, Reshape, Slice, Transpose, ew
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.convolutions import WEIGHTS, Follow, check, single, task
from tests.backends.tvm.loaded import Loaded
from tests.strategies.instances import instances, sample
from tests.strategies.values import closeness

F32 = DType.F32


def conv(
    kernel: int = 3,
    stride: int = 1,
    pad: int = 1,
    dilation: int = 1,
    groups: int = 1,
    last: bool = True,
) -> Conv:
    return Conv((stride,) * 2, ((pad, pad),) * 2, (dilation,) * 2, groups, last)


def relu(builder: Builder, value: Value) -> Value:
    return builder.emit(ew.Relu(), value)


def residual(builder: Builder, value: Value) -> Value:
    other = builder.input(value.type)
    return relu(builder, builder.emit(ew.Add(), value, other))


def scaled(builder: Builder, value: Value) -> Value:
    """Scale and shift of every channel, the form of a batch norm that could not be folded."""
    channels = TensorType((value.shape[-1],), value.type.dtype)
    scale, shift = builder.input(channels), builder.input(channels)
    return builder.emit(ew.Add(), builder.emit(ew.Mul(), value, scale), shift)


def to_first(builder: Builder, value: Value) -> Value:
    return builder.emit(Transpose((0, 3, 1, 2)), value)


def to_last(builder: Builder, value: Value) -> Value:
    return builder.emit(Transpose((0, 2, 3, 1)), value)


def test_layers_of_residual_networks() -> None:
    check(
        [
            task(conv(), (1, 14, 14, 32), (48, 32, 3, 3), after=residual),
            task(conv(1, 1, 0), (1, 14, 14, 64), (32, 64, 1, 1), after=relu),
            task(conv(1, 2, 0), (1, 14, 14, 48), (80, 48, 1, 1)),
            task(conv(3, 2), (2, 15, 17, 24), (33, 24, 3, 3), after=scaled),
        ],
        "conv/",
    )


def test_the_first_layer_reads_the_image_in_either_layout() -> None:
    check(
        [
            task(conv(7, 2, 3), (1, 3, 37, 41), (32, 3, 7, 7), before=to_last, after=relu),
            task(conv(7, 2, 3), (1, 37, 41, 3), (32, 3, 7, 7), after=relu),
            task(conv(3, 2, 1, last=False), (1, 3, 32, 32), (19, 3, 3, 3)),
        ],
        "conv/",
    )


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 29])
def test_small_images(side: int) -> None:
    check(
        [
            task(conv(), (1, side, side, 9), (40, 9, 3, 3)),
            task(conv(5, 1, 2), (2, side, side, 4), (7, 4, 5, 5), bias=False),
            task(conv(3, 1, 4, 3), (1, side, side, 5), (6, 5, 3, 3)),
        ],
        "conv/",
    )


def test_more_padding_than_window() -> None:
    op = Conv((1, 2), ((5, 0), (0, 6)), (1, 1), 1, True)
    check([task(op, (1, 3, 4, 5), (6, 5, 2, 3))], "conv/")


def test_one_and_three_axes() -> None:
    check(
        [
            task(Conv((2,), ((2, 1),), (1,), 1, True), (2, 33, 8), (20, 8, 4)),
            task(Conv((1,), ((0, 0),), (2,), 1, False), (2, 8, 33), (20, 8, 5)),
            task(
                Conv((1, 2, 1), ((1, 1),) * 3, (1,) * 3, 1, True), (1, 5, 6, 7, 4), (9, 4, 3, 3, 3)
            ),
        ],
        "conv/",
    )


def test_groups_that_do_not_fill_vectors() -> None:
    check(
        [
            task(conv(groups=2), (1, 9, 9, 8), (20, 4, 3, 3)),
            task(conv(groups=4), (1, 9, 9, 12), (36, 3, 3, 3), after=relu),
            task(conv(groups=2), (1, 9, 9, 32), (96, 16, 3, 3), after=residual),
        ],
        "conv/",
    )


def test_transposed() -> None:
    def op(stride: int, pad: int, extra: int, dilation: int = 1, groups: int = 1) -> ConvTranspose:
        two = (stride,) * 2
        return ConvTranspose(two, ((pad, pad),) * 2, (extra,) * 2, (dilation,) * 2, groups, True)

    check(
        [
            task(op(2, 0, 0), (1, 7, 9, 16), (16, 24, 2, 2), after=relu),
            task(op(2, 1, 1), (2, 5, 6, 8), (8, 20, 3, 3)),
            task(op(2, 1, 0), (1, 5, 6, 8), (8, 33, 4, 4)),
            task(op(3, 1, 0, 2, 2), (1, 5, 4, 6), (6, 5, 3, 3)),
            task(op(3, 0, 0), (1, 4, 4, 3), (3, 5, 2, 2)),
        ],
        "conv/",
    )


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F64])
def test_storage_types(dtype: DType) -> None:
    check([task(conv(), (1, 8, 9, 16), (24, 16, 3, 3), dtype=dtype, after=relu)], "conv/")


def sliced(builder: Builder, value: Value) -> Value:
    stops = tuple(value.shape)
    return builder.emit(Slice((0, 1, 0, 3), stops, (1, 2, 1, 1)), value)


def halved(builder: Builder, value: Value) -> Value:
    return builder.emit(ew.Mul(), value, builder.splat(0.5, value.type))


def flat(builder: Builder, value: Value) -> Value:
    return builder.emit(Reshape((value.shape[0], -(-value.type.elements // value.shape[0]))), value)


@pytest.mark.parametrize("before", [sliced, halved, to_last])
def test_what_feeds_the_window(before: Follow) -> None:
    channels = {sliced: 9, halved: 12, to_last: 9}[before]
    check([task(conv(), (2, 9, 8, 12), (16, channels, 3, 3), before=before)], "conv/")


@pytest.mark.parametrize("after", [to_first, flat, scaled])
def test_what_becomes_of_the_result(after: Follow) -> None:
    check([task(conv(), (2, 9, 8, 12), (24, 12, 3, 3), after=after)], "conv/")


def test_random_convolutions() -> None:
    found = [*sample(instances(Conv), 60), *sample(instances(ConvTranspose), 40)]
    bodies = [single(item.op, item.types) for item in found]
    known = [frozenset(range(1, len(item.types))) for item in found]
    kernels = Loaded(bodies, known)
    for number, (item, body) in enumerate(zip(found, bodies, strict=True)):
        (actual,), (wanted,) = kernels(number, item.inputs()), run_graph(body, item.inputs())
        tolerance = closeness(item.types[0].dtype, 100)
        torch.testing.assert_close(actual, wanted, **tolerance, msg=lambda m, i=item: f"{i}: {m}")


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3"])
def test_narrower_vectors(target: str) -> None:
    machine = find_target(target)
    check(
        [
            task(conv(), (1, 9, 11, 12), (29, 12, 3, 3), after=residual),
            task(conv(7, 2, 3), (1, 3, 20, 20), (16, 3, 7, 7), before=to_last),
            task(conv(), (1, 5, 6, 8), (12, 8, 3, 3), dtype=DType.BF16),
        ],
        "conv/",
        machine,
    )


@pytest.mark.parametrize("target", ["aarch64", "cortex-a76", "armv7"])
def test_arm_compiles(target: str) -> None:
    machine = find_target(target)
    problem = Problem(task(conv(), (1, 9, 11, 12), (29, 12, 3, 3), after=relu), WEIGHTS, machine)
    plan = Convolution().match(problem)
    assert isinstance(plan, ConvPlan)
    emitted = plan.emit("k", plan.candidates()[0])
    assert compile_functions([emitted.function], machine).data[:4] == b"\x7fELF"


@pytest.mark.parametrize("choice", range(1, 12, 3))
def test_every_candidate_computes_the_same(choice: int) -> None:
    check([task(conv(), (1, 6, 6, 5), (37, 5, 3, 3))], "conv/", choice=choice)


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 5), st.integers(1, 6), st.booleans())
def test_a_pack_holds_every_weight_once(
    groups: int, outputs: int, inputs: int, taps: int, transposed: bool
) -> None:
    shape = (groups * inputs, outputs, taps) if transposed else (groups * outputs, inputs, taps)
    weights = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    pack = ConvPack(groups, 32, 16, transposed, Words(DType.F32))
    packed = pack(weights)
    assert packed.shape == pack.type(TensorType(shape, F32)).shape
    assert sorted(packed[packed != 0].tolist()) == sorted(weights.ravel().tolist())


def test_weights_that_are_not_constant_go_elsewhere() -> None:
    body = task(conv(), (1, 6, 6, 5), (8, 5, 3, 3))
    answer = Convolution().match(Problem(body, frozenset(), find_target("x86-64-v3")))
    assert isinstance(answer, Miss)
    assert "constant" in answer.reason
