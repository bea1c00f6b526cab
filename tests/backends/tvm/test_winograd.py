"""Winograd convolutions against their definition: exact where it can be, else by their errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from optc.backends.kernel import Job
from optc.backends.reference.evaluate import run_graph
from optc.backends.tvm.codegen import compile_functions
from optc.backends.tvm.kernel import build
from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.conv import Convolution, ConvPlan
from optc.backends.tvm.templates.conv_knobs import ConvKnobs
from optc.backends.tvm.templates.minimal import SIZES, TAPS, minimal
from optc.backends.tvm.templates.plan import Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.winograd import Winograd, WinogradPack, WinogradPlan
from optc.backends.tvm.templates.winograd_knobs import Share, WinogradKnobs
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.ops import Conv, Slice, ew
from optc.ir.targets.detect import host
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from optc.ir.types import TensorType
from tests.backends.tvm.convolutions import WEIGHTS, random_inputs, task
from tests.backends.tvm.loaded import Loaded

SEVERAL = replace(host(), cores=3)


def conv(pad: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1) -> Conv:
    return Conv((stride,) * 2, ((pad, pad),) * 2, (dilation,) * 2, groups, True)


def uneven(above: tuple[int, int], along: tuple[int, int]) -> Conv:
    return Conv((1, 1), (above, along), (1, 1), 1, True)


def residual(builder: Builder, value: Value) -> Value:
    other = builder.input(value.type)
    return builder.emit(ew.Relu(), builder.emit(ew.Add(), value, other))


def clamped(builder: Builder, value: Value) -> Value:
    return builder.emit(ew.Minimum(), value, builder.splat(0.5, value.type))


def halved(builder: Builder, value: Value) -> Value:
    return builder.emit(ew.Mul(), value, builder.splat(0.5, value.type))


def sliced(builder: Builder, value: Value) -> Value:
    return builder.emit(Slice((0, 1, 0, 3), tuple(value.shape), (1, 2, 1, 1)), value)


def always(*knobs: WinogradKnobs) -> Callable[[Problem], tuple[Plan, Knobs]]:
    """Plans with the given knobs, in turn, whatever the estimates say."""
    left = list(knobs)

    def plan(problem: Problem) -> tuple[Plan, Knobs]:
        return forced(problem), left.pop(0)

    return plan


def forced(problem: Problem) -> WinogradPlan:
    direct = Convolution().match(problem)
    assert isinstance(direct, ConvPlan)
    return WinogradPlan(direct, "winograd/test")


def errors(actual: Tensor, body: Graph, inputs: list[Tensor]) -> tuple[float, float]:
    """Root mean square and largest error, as shares of the range of the f64 result."""
    exact = double(body, inputs)
    off = (actual.double() - exact).abs()
    span = float(exact.max() - exact.min()) or 1.0
    return float(off.square().mean().sqrt()) / span, float(off.max()) / span


def double(body: Graph, inputs: list[Tensor]) -> Tensor:
    """A convolution with a bias in f64."""
    x, weight, bias = (item.double() for item in inputs)
    (node,) = body.nodes
    assert isinstance(node.op, Conv)
    result = torch.nn.functional.conv2d(x.movedim(-1, 1), weight, bias, padding=node.op.padding[0])
    return result.movedim(1, -1)


@pytest.mark.parametrize("size", SIZES)
@given(data=st.data())
def test_the_matrices_compute_the_filter(size: int, data: st.DataObject) -> None:
    one = minimal(size)
    integers = st.integers(-99, 99)
    signal = data.draw(st.lists(integers, min_size=one.points, max_size=one.points))
    taps = data.draw(st.lists(integers, min_size=TAPS, max_size=TAPS))

    def times(rows: tuple[tuple[Fraction, ...], ...], vector: list[Fraction]) -> list[Fraction]:
        return [sum((a * x for a, x in zip(row, vector, strict=True)), Fraction(0)) for row in rows]

    both = zip(
        times(one.data, list(map(Fraction, signal))),
        times(one.filter, list(map(Fraction, taps))),
        strict=True,
    )
    found = times(one.result, [a * b for a, b in both])
    assert found == [sum(signal[i + k] * taps[k] for k in range(TAPS)) for i in range(size)]


@pytest.mark.parametrize("size", SIZES)
def test_transforms_of_images_have_no_rounded_element(size: int) -> None:
    for row in (*minimal(size).data, *minimal(size).result):
        for item in row:
            assert Fraction(float(np.float32(float(item)))) == item


@pytest.mark.parametrize("share", Share)
def test_small_tiles_of_integers_are_exact(share: Share) -> None:
    # Filters of multiples of 4 have integer transforms: every step is on small integers.
    bodies = [
        task(conv(), (2, 9, 7, 20), (24, 20, 3, 3), after=residual),
        task(conv(0), (1, 6, 5, 3), (37, 3, 3, 3)),
    ]
    knobs = WinogradKnobs(2, 2, 4, 2, 2, 1, share)
    kernels = Loaded(bodies, [WEIGHTS] * 2, SEVERAL, plan=always(knobs, knobs))
    for number, body in enumerate(bodies):
        source = np.random.default_rng(number)
        inputs = [
            torch.from_numpy(source.integers(-8, 9, v.shape).astype(np.float32))
            for v in body.inputs
        ]
        inputs[1] *= 4
        (actual,), (wanted,) = kernels(number, inputs), run_graph(body, inputs)
        assert torch.equal(actual, wanted)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 19), st.integers(1, 19)),
    st.integers(1, 40),
    st.integers(1, 50),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES), st.integers(1, 9), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.sampled_from(Share)),
)
def test_any_shape_and_setting(
    image: tuple[int, int, int],
    inputs: int,
    outputs: int,
    pads: tuple[int, int, int, int],
    tile: tuple[int, int, int, int],
    more: tuple[int, Share],
) -> None:
    high, wide = max(image[1], 3), max(image[2], 3)
    op = uneven(pads[:2], pads[2:])
    body = task(op, (image[0], high, wide, inputs), (outputs, inputs, 3, 3), after=residual)
    height, width, rows, strips = tile
    vectors, share = more
    knobs = WinogradKnobs(height, width, rows, strips, vectors, 1, share)
    kernels = Loaded([body], [WEIGHTS], SEVERAL, plan=always(knobs))
    numbers = random_inputs(body)
    (actual,), (wanted,) = kernels(0, numbers), run_graph(body, numbers)
    # Three times the direct way's bound of a random sum: see the table in `minimal`.
    torch.testing.assert_close(actual, wanted, rtol=0, atol=3e-6 * 3 * (9 * inputs) ** 0.5)


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_what_surrounds_it_on_every_level(target: str) -> None:
    machine = find_target(f"{target}:cores=2")
    bodies = [
        task(conv(), (1, 14, 14, 32), (48, 32, 3, 3), before=halved, after=clamped),
        task(conv(), (1, 13, 15, 12), (29, 9, 3, 3), before=sliced, after=residual, bias=False),
    ]
    knobs = [
        WinogradKnobs(4, 4, 4, 2, 2, 1, Share.TILES),
        WinogradKnobs(4, 2, 3, 1, 1, 1, Share.CHANNELS),
    ]
    constants = [WEIGHTS, frozenset({1})]
    kernels = Loaded(bodies, constants, machine, plan=always(*knobs))
    for number, body in enumerate(bodies):
        inputs = random_inputs(body, number)
        (actual,), (wanted,) = kernels(number, inputs), run_graph(body, inputs)
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("share", "unroll"), [(Share.TILES, 2), (Share.CHANNELS, 1)])
def test_products_with_two_sums_for_each_result(share: Share, unroll: int) -> None:
    machine = find_target("x86-64-v2:cores=2")
    bodies = [
        task(conv(), (1, 14, 14, 20), (24, 20, 3, 3), after=residual),
        task(conv(), (2, 13, 15, 6), (29, 6, 3, 3), bias=False),
        task(conv(0), (1, 9, 8, 2), (3, 2, 3, 3)),
    ]
    near = [
        WinogradKnobs(4, 4, 13, 2, 4, unroll, share, 1),
        WinogradKnobs(2, 4, 5, 3, 3, unroll, share, 2),
        WinogradKnobs(2, 2, 2, 2, 1, 1, share, 1),
    ]
    small = replace(machine, memory=tuple(replace(m, size=1 << 10) for m in machine.memory))
    for target in (machine, small):  # whose second cache keeps the weights, and does not
        constants = [WEIGHTS, frozenset({1}), WEIGHTS]
        kernels = Loaded(bodies, constants, target, plan=always(*near))
        for number, body in enumerate(bodies):
            inputs = random_inputs(body, number)
            (actual,), (wanted,) = kernels(number, inputs), run_graph(body, inputs)
            torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-4)
    odd = task(conv(), (1, 9, 9, 5), (8, 5, 3, 3))
    wide = find_target("znver4")
    for body, level, offered in (
        (bodies[0], machine, {0, 1, 2}),
        (odd, machine, {0}),
        (bodies[0], wide, {0}),
    ):
        found = forced(Problem(body, WEIGHTS, level)).settings
        assert {knobs.apart for knobs in found} == offered


def test_errors_are_those_of_the_table() -> None:
    depths = (16, 128)
    bodies = [task(conv(), (1, 16, 16, depth), (32, depth, 3, 3)) for depth in depths]
    sizes = {
        size: Loaded(
            bodies,
            [WEIGHTS] * 2,
            plan=always(*[WinogradKnobs(size, size, 8, 2, 2, 1, Share.TILES)] * 2),
        )
        for size in SIZES
    }
    direct = Loaded(bodies, [WEIGHTS] * 2, replace(host(), winograd=False))
    for number, body in enumerate(bodies):
        inputs = random_inputs(body, number)
        plain = errors(direct(number, inputs)[0], body, inputs)
        small, large = (errors(sizes[size](number, inputs)[0], body, inputs) for size in SIZES)
        assert small[0] < 1.2 * plain[0]
        assert large[0] < 3 * plain[0]
        assert large[1] < 1e-5


@pytest.mark.parametrize("target", ["aarch64", "armv7"])
def test_arm_compiles(target: str) -> None:
    machine = find_target(target)
    plan = forced(Problem(task(conv(), (1, 9, 11, 12), (29, 12, 3, 3)), WEIGHTS, machine))
    emitted = plan.emit("k", plan.settings[0])
    assert compile_functions([emitted.function], machine).data[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (task(conv(stride=2), (1, 56, 56, 64), (64, 64, 3, 3)), "steps"),
        (task(conv(dilation=2), (1, 56, 56, 64), (64, 64, 3, 3)), "steps"),
        (task(conv(groups=2), (1, 56, 56, 64), (64, 32, 3, 3)), "groups"),
        (task(conv(0), (1, 56, 56, 64), (64, 64, 1, 1)), "3x3"),
        (task(conv(), (1, 56, 56, 64), (64, 64, 3, 3), dtype=DType.BF16), "rounds"),
        (task(replace(conv(), channels_last=False), (1, 64, 9, 9), (64, 64, 3, 3)), "first"),
        (task(conv(), (1, 3, 3, 512), (512, 512, 3, 3)), "estimate"),
    ],
)  # fmt: skip
def test_why_not(body: Graph, reason: str) -> None:
    answer = Winograd().match(Problem(body, WEIGHTS, find_target("x86-64-v4:cores=2")))
    assert isinstance(answer, Miss)
    assert reason in answer.reason


def layer(target: Target) -> tuple[Job, Plan]:
    body = task(conv(), (1, 56, 56, 64), (64, 64, 3, 3))
    return Job(body, WEIGHTS), match(Problem(body, WEIGHTS, target))[0]


def test_the_choice_is_the_targets_and_the_tuners() -> None:
    target = find_target("x86-64-v4:cores=2")
    job, plan = layer(target)
    candidates = plan.candidates()
    assert isinstance(candidates[0], WinogradKnobs)
    assert any(isinstance(knobs, ConvKnobs) for knobs in candidates)
    assert len(set(map(repr, candidates))) == len(candidates)
    _, refused = layer(find_target("x86-64-v4:cores=2,winograd=off"))
    assert all(isinstance(knobs, ConvKnobs) for knobs in refused.candidates())
    direct = next(knobs for knobs in candidates if isinstance(knobs, ConvKnobs))
    fast, plain = build(job, target), build(job, target, lambda job, plan: direct)
    assert fast.template.startswith("winograd/")
    assert plain.template.startswith("conv/")
    definition = 2 * 54 * 54 * 64 * 64 * 9
    assert fast.flops is not None
    assert definition / 4 < fast.flops < definition / 2
    assert plain.flops is None


def test_a_pack_is_the_filters_transform() -> None:
    weights = np.random.default_rng(0).standard_normal((37, 5, 3, 3)).astype(np.float32)
    pack = WinogradPack(2, 4, 32, 16)
    packed = pack(weights)
    assert packed.dtype == np.float32
    assert packed.shape == pack.type(TensorType(weights.shape, DType.F32)).shape
    down, along = (
        np.array([[float(item) for item in row] for row in minimal(size).filter]) for size in (2, 4)
    )
    # Point (1, 2) of channel 3 into output 34, which is the third of the second panel.
    wanted = down[1] @ weights[34, 3].astype(np.float64) @ along[2]
    start = 24 * 5 * 32  # the first panel
    assert packed[start + ((1 * 6 + 2) * 5 + 3) * 16 + 2] == np.float32(wanted)
