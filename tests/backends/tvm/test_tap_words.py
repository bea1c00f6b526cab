"""Depthwise convolutions of bytes by words of four rows have exactly the integers' results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.fused import fused
from optc.backends.tvm.templates.plan import Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.tap_pack import TapsPack, meetings
from optc.backends.tvm.templates.tap_words import TapPlan, TapWords, refusal
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Conv, Pad
from optc.ir.targets.detect import runs_here
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.bytes import EPILOGUES, I8, U8, Task, check, task, windows_templates

LEVELS = ("host", "x86-64-v4", "x86-64-v3", "x86-64-v2")
HERE = tuple(name for name in LEVELS if runs_here(find_target(name)))


@dataclass(frozen=True)
class Window:
    """An image and what slides over it, per axis."""

    image: tuple[int, int, int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))
    dilation: int = 1  # of columns

    def task(self, kind: DType, epilogue: str) -> Task:
        channels = self.image[3]
        op = Conv(self.stride, self.padding, (1, self.dilation), channels, True)
        x, weight = TensorType(self.image, kind), TensorType((channels, 1, *self.kernel), I8)
        return task(op, x, weight, epilogue)


def words(problem: Problem) -> tuple[Plan, Knobs]:
    """The template's plan, whether it pays or not."""
    (anchor,) = [node for node in problem.body.nodes if isinstance(node.op, Conv)]
    assert refusal(problem, anchor) is None
    task = fused(problem, anchor)
    assert not isinstance(task, Miss)
    plan = TapPlan(task, "taps/test")
    return plan, plan.candidates()[0]


SAME, FIVE = ((1, 1), (1, 1)), ((2, 2), (2, 2))
WINDOWS = (
    Window((1, 14, 14, 144)),  # blocks of 64, and 16 channels more
    Window((2, 15, 13, 33), stride=(2, 2)),  # a channel beyond whole vectors
    Window((1, 9, 70, 72), (5, 5), padding=FIVE),  # several stretches of a band
    Window((1, 5, 4, 3), (7, 7), padding=((3, 3), (3, 3))),  # fewer channels than a vector
    Window((1, 6, 9, 20), (1, 3), padding=((0, 0), (2, 0)), dilation=2),
    Window((1, 12, 12, 32), (2, 5), (3, 1), ((0, 1), (0, 0))),
)


@pytest.mark.parametrize(
    ("target", "kind"),
    [("host", U8), ("host", I8), ("x86-64-v4", U8), ("x86-64-v3", I8), ("x86-64-v2", U8)],
)
def test_windows_on_every_instruction_set(target: str, kind: DType) -> None:
    ends = ("requantize", "residual", "bias", "float", "", "per tensor")
    tasks = [window.task(kind, end) for window, end in zip(WINDOWS, ends, strict=True)]
    assert check(tasks, find_target(target), plan=words) == {"taps/test"}


@pytest.mark.parametrize(("kind", "number"), [(U8, 200), (U8, 3), (I8, -77)])
def test_borders_that_are_not_zero(kind: DType, number: int) -> None:
    """A Pad in front is read as what it is around, not copied."""

    def bordered(low: tuple[int, ...], high: tuple[int, ...]) -> Callable[[Builder, Value], Value]:
        return lambda builder, x: builder.emit(Pad(low, high, value=number), x)

    op = Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 40, True)
    x, weight = TensorType((2, 9, 11, 40), kind), TensorType((40, 1, 3, 3), I8)
    tasks = [
        task(op, x, weight, "requantize", before=bordered((0, 1, 2, 0), (0, 2, 0, 0))),
        task(op, x, weight, "bias", before=bordered((1, 1, 1, 0), (0, 1, 1, 0))),
    ]
    assert check(tasks) <= windows_templates("host")
    for level in ("x86-64-v3", "x86-64-v2"):
        assert check(tasks, find_target(level), plan=words) == {"taps/test"}


@st.composite
def windows(draw: DrawFn) -> Window:
    """Rows and columns each with a stride and borders of their own."""
    kernel, stride, low, high = (
        (draw(st.integers(*within)), draw(st.integers(*within)))
        for within in ((1, 6), (1, 3), (0, 3), (0, 3))
    )
    dilation = draw(st.integers(1, 2))
    height = draw(st.integers(max(1, kernel[0] - low[0] - high[0]), 20))
    reach = (kernel[1] - 1) * dilation + 1
    width = draw(st.integers(max(1, reach - low[1] - high[1]), 20))
    image = draw(st.integers(1, 2)), height, width, draw(st.integers(1, 100))
    padding = (low[0], high[0]), (low[1], high[1])
    return Window(image, kernel, stride, padding, dilation)


@given(
    windows(),
    st.sampled_from((U8, I8)),
    st.sampled_from(EPILOGUES),
    st.sampled_from(HERE),
    st.integers(0, 20),
)
@settings(max_examples=10, deadline=None)
def test_any_window_with_any_tile(
    window: Window, kind: DType, epilogue: str, target: str, choice: int
) -> None:

    def chosen(problem: Problem) -> tuple[Plan, Knobs]:
        plan, _ = words(problem)
        knobs = plan.candidates()
        return plan, knobs[choice % len(knobs)]

    check([window.task(kind, epilogue)], find_target(target), plan=chosen)


@given(
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 50),
    st.sampled_from((2, 4)),
)
def test_packs_hold_every_tap_once_for_each_row(
    height: int, rows: int, stride: int, seed: int, group: int
) -> None:
    weights = np.random.default_rng(seed).integers(-128, 128, (5, 1, height, 2)).astype(np.int8)
    pack = TapsPack(rows, stride, 4, -128, group)
    packed = pack(weights)
    assert TensorType(packed.shape, DType.I32) == pack.type(TensorType(weights.shape, I8))
    found = np.zeros((rows, 64, 2, 5), np.int64)
    for number, item in enumerate(meetings((height, 2), rows, stride, group)):
        parts = packed[number, :5].copy().view(f"i{4 // group}").reshape(5, group)
        first = group * item.word
        found[item.row, first : first + group, item.column] = parts.T
    wanted = weights[:, 0].transpose(1, 2, 0)
    for row in range(rows):
        first = row * stride
        assert (found[row, first : first + height] == wanted).all()
        assert np.abs(found[row]).sum() == np.abs(wanted.astype(np.int64)).sum()
    assert (packed[-1, :5] == -128 * weights.reshape(5, -1).sum(axis=1, dtype=np.int64)).all()


@pytest.mark.parametrize(
    ("image", "kernel", "stride", "template"),
    [(28, 3, 1, "taps"), (28, 5, 2, "taps"), (28, 3, 2, "depthwise"), (7, 3, 1, "depthwise")],
)
def test_words_of_two_rows_where_they_pay(
    image: int, kernel: int, stride: int, template: str
) -> None:
    pad = ((kernel // 2,) * 2,) * 2
    item = Window((1, image, image, 32), (kernel,) * 2, (stride,) * 2, pad).task(U8, "requantize")
    levels = {"x86-64-v3": template, "x86-64-v2": template, "x86-64-v4": "depthwise"}
    for target, wanted in {**levels, "znver4": "taps"}.items():
        plan, _ = match(Problem(item.body, item.constants, find_target(target)))
        assert plan.template.split("/")[0] == wanted


@pytest.mark.parametrize(
    ("window", "size", "target", "reason"),
    [
        (Conv((1, 1), SAME, (2, 1), 8, True), 3, "host", "rows are dilated"),
        (Conv((1, 1), SAME, (1, 1), 8, True), 3, "aarch64", "no products of neighbours"),
        (Conv((1, 1), SAME, (1, 1), 4, True), 3, "host", "mixes channels"),
        (Conv((1, 1), SAME, (1, 1), 8, True), 12, "host", "144 taps are loops"),
    ],
)
def test_what_goes_elsewhere(window: Conv, size: int, target: str, reason: str) -> None:
    weight = TensorType((8, 8 // window.groups, size, size), I8)
    item = task(window, TensorType((1, 15, 15, 8), U8), weight, "requantize")
    answer = TapWords().match(Problem(item.body, item.constants, find_target(target)))
    assert isinstance(answer, Miss)
    assert reason in answer.reason
