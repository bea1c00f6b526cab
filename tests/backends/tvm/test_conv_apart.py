"""Convolutions with two sums for each column agree with torch, and are offered where they fit."""

from __future__ import annotations

import pytest

from optc.backends.tvm.templates.conv import Convolution, ConvPlan
from optc.backends.tvm.templates.conv_knobs import ConvKnobs
from optc.backends.tvm.templates.plan import Problem
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.ops import Conv, ConvTranspose, Slice, Transpose, ew
from optc.ir.targets.detect import host, runs_here
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from tests.backends.tvm.convolutions import WEIGHTS, check, task

NEEDED = "x86-64-v3"
WIDE = find_target("x86-64-v4")
CPU = host()


def conv(
    kernel: int = 1, stride: int = 1, pad: int = 0, dilation: int = 1, groups: int = 1
) -> Conv:
    return Conv((stride,) * 2, ((pad, pad),) * 2, (dilation,) * 2, groups, True)


def residual(builder: Builder, value: Value) -> Value:
    other = builder.input(value.type)
    return builder.emit(ew.Clamp(0.0, 6.0), builder.emit(ew.Add(), value, other))


def to_first(builder: Builder, value: Value) -> Value:
    return builder.emit(Transpose((0, 3, 1, 2)), value)


def half_of_the_channels(builder: Builder, value: Value) -> Value:
    *places, channels = value.shape
    return builder.emit(Slice((0, 0, 0, channels // 2), (*places, channels), (1,) * 4), value)


def planned(body: Graph, target: Target) -> ConvPlan:
    constant = frozenset(i for i in WEIGHTS if i < len(body.inputs))
    plan = Convolution().match(Problem(body, constant, target))
    assert isinstance(plan, ConvPlan)
    return plan


def offered(body: Graph, target: Target) -> list[int]:
    """The places of settings with two sums."""
    listed = planned(body, target).candidates()
    return [i for i, knobs in enumerate(listed) if isinstance(knobs, ConvKnobs) and knobs.sums > 1]


BODIES = {
    "projection": task(conv(), (1, 7, 9, 32), (24, 32, 1, 1), after=residual),
    "ragged": task(conv(), (1, 5, 11, 18), (21, 18, 1, 1), bias=False),
    "one vector": task(conv(), (2, 3, 28, 6), (16, 6, 1, 1)),
    "several panels": task(conv(), (1, 4, 4, 10), (152, 10, 1, 1), after=to_first),
    "window": task(conv(3, 1, 1), (1, 9, 8, 4), (40, 4, 3, 3), after=residual),
    "steps": task(conv(3, 2, 1), (2, 9, 12, 12), (8, 12, 3, 3)),
    "dilated": task(conv(3, 1, 2, 2), (1, 9, 8, 6), (20, 6, 3, 3)),
    "groups": task(conv(3, 1, 1, 1, 3), (1, 6, 7, 18), (24, 6, 3, 3), after=residual),
    "slice": task(conv(), (1, 6, 7, 40), (24, 20, 1, 1), before=half_of_the_channels),
    "transposed": task(
        ConvTranspose((2, 2), ((1, 1),) * 2, (0, 0), (1, 1), 1, True), (1, 5, 6, 8), (8, 24, 4, 4)
    ),
    "one axis": task(Conv((1,), ((2, 0),), (1,), 1, True), (2, 30, 6), (24, 6, 3)),
}


@pytest.mark.needs("cpu:fma")
@pytest.mark.parametrize("name", BODIES)
def test_every_kind_of_convolution(name: str) -> None:
    places = offered(BODIES[name], CPU)
    assert places or CPU.vector_bits < 512, "no setting with two sums"
    for place in places[:1]:
        check([BODIES[name]], "conv/", CPU, choice=place)


@pytest.mark.needs("cpu:fma")
def test_vectors_of_eight_lanes() -> None:
    machine = find_target(NEEDED)
    if not runs_here(machine):
        pytest.skip(f"this machine lacks instructions of {NEEDED}")
    body = task(conv(3, 1, 1), (1, 6, 9, 14), (12, 14, 3, 3), after=residual)
    check([body], "conv/", machine, choice=offered(body, machine)[0])


@pytest.mark.parametrize(
    ("name", "vectors"), [("projection", 1), ("ragged", 3), ("window", 2), ("groups", 1)]
)
def test_instructions_that_overwrite(name: str, vectors: int) -> None:
    machine, body = find_target("x86-64-v2"), BODIES[name]
    if not runs_here(machine):
        pytest.skip("this machine is no x86-64-v2")
    listed = planned(body, machine).candidates()
    assert isinstance(listed[0], ConvKnobs)
    assert listed[0].sums == 2
    choice = next(i for i in offered(body, machine) if getattr(listed[i], "vectors", 0) == vectors)
    check([body], "conv/", machine, choice=choice)


def test_first_choice_where_lanes_would_be_idle() -> None:
    wasteful = planned(task(conv(), (1, 56, 56, 96), (24, 96, 1, 1)), WIDE)
    knobs = wasteful.candidates()[0]
    assert isinstance(knobs, ConvKnobs)
    assert (knobs.sums, knobs.vectors) == (2, 3)
    full = planned(task(conv(), (1, 56, 56, 96), (32, 96, 1, 1)), WIDE)
    assert all(getattr(knobs, "sums", 0) == 1 for knobs in full.candidates())


@pytest.mark.parametrize(
    ("body", "target"),
    [
        (task(conv(), (1, 8, 8, 15), (24, 15, 1, 1)), WIDE),
        (task(conv(), (1, 8, 8, 16), (24, 16, 1, 1), dtype=DType.F16), WIDE),
        (task(conv(), (1, 8, 8, 16), (24, 16, 1, 1)), find_target("aarch64")),
        (task(Conv((1, 1), ((0, 0),) * 2), (1, 16, 8, 8), (24, 16, 1, 1)), WIDE),
    ],
    ids=["odd channels", "halves", "lanes", "channels first"],
)
def test_not_offered(body: Graph, target: Target) -> None:
    assert not offered(body, target)
