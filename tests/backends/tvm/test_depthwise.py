"""Depthwise convolutions by their template agree with torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.backends.tvm.templates.depthwise import Depthwise, DepthwisePack, DepthwisePlan
from optc.backends.tvm.templates.plan import Miss, Problem
from optc.backends.tvm.templates.slide_knobs import Share, SlideKnobs
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.ops import Conv, ConvTranspose, Transpose, ew
from optc.ir.targets.detect import host, runs_here
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.convolutions import WEIGHTS, Follow, check, task

LEVELS = ("host", "x86-64-v4", "x86-64-v3", "x86-64-v2")
HERE = tuple(name for name in LEVELS if runs_here(find_target(name)))


def depthwise(channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> Conv:
    pad = dilation * (kernel // 2)
    two = (stride,) * 2
    return Conv(two, ((pad, pad),) * 2, (dilation,) * 2, channels, True)


def clamped(builder: Builder, value: Value) -> Value:
    return builder.emit(ew.Clamp(0.0, 6.0), value)


def to_first(builder: Builder, value: Value) -> Value:
    return builder.emit(Transpose((0, 3, 1, 2)), value)


def to_last(builder: Builder, value: Value) -> Value:
    return builder.emit(Transpose((0, 2, 3, 1)), value)


@pytest.mark.parametrize("channels", [1, 3, 16, 24, 37, 96])
def test_channels_fill_vectors_or_not(channels: int) -> None:
    weight = (channels, 1, 3, 3)
    check(
        [
            task(depthwise(channels), (2, 9, 11, channels), weight, after=clamped),
            task(depthwise(channels, stride=2), (1, 10, 9, channels), weight, bias=False),
        ],
        "depthwise/",
    )


def test_windows() -> None:
    check(
        [
            task(depthwise(20, 5), (1, 19, 17, 20), (20, 1, 5, 5)),
            task(depthwise(20, 3, 1, 3), (1, 7, 8, 20), (20, 1, 3, 3)),
            task(depthwise(20, 7), (1, 4, 3, 20), (20, 1, 7, 7)),
            task(Conv((1,), ((2, 0),), (1,), 6, True), (2, 30, 6), (6, 1, 3)),
            task(
                Conv((1, 2, 1), ((1, 1),) * 3, (1,) * 3, 5, True), (1, 4, 5, 6, 5), (5, 1, 3, 3, 3)
            ),
        ],
        "depthwise/",
    )


def test_transposed() -> None:
    op = ConvTranspose((2, 3), ((1, 1), (0, 1)), (1, 0), (1, 1), 18, True)
    check([task(op, (1, 6, 7, 18), (18, 1, 4, 2), after=clamped)], "depthwise/")


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F64])
def test_storage_types(dtype: DType) -> None:
    check([task(depthwise(24), (1, 8, 9, 24), (24, 1, 3, 3), dtype=dtype)], "depthwise/")


@pytest.mark.parametrize(("before", "after"), [(to_last, clamped), (clamped, to_first)])
def test_what_is_fused_around_it(before: Follow, after: Follow) -> None:
    shape = (1, 18, 7, 8) if before is to_last else (1, 7, 8, 18)
    weight = (18, 1, 3, 3)
    check([task(depthwise(18), shape, weight, before=before, after=after)], "depthwise/")


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3"])
def test_narrower_vectors(target: str) -> None:
    body = task(depthwise(21), (1, 9, 13, 21), (21, 1, 3, 3), after=clamped)
    check([body], "depthwise/", find_target(target))


@st.composite
def windows(draw: DrawFn) -> Graph:
    """Rows and columns each with a stride, a dilation and borders of their own."""
    channels = draw(st.integers(1, 70))
    taps, stride, dilation, low, high = (
        tuple(draw(st.integers(*within)) for _ in range(2))
        for within in ((1, 5), (1, 3), (1, 2), (0, 2), (0, 2))
    )
    reach = [(k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True)]
    size = [draw(st.integers(r, 24)) for r in reach]
    op = Conv(stride, tuple(zip(low, high, strict=True)), dilation, channels, True)
    shape = (draw(st.integers(1, 2)), *size, channels)
    return task(op, shape, (channels, 1, *taps), after=clamped)


@given(windows(), st.integers(0, 150), st.sampled_from(HERE))
@settings(max_examples=8, deadline=None)
def test_every_candidate_computes_the_same(body: Graph, choice: int, target: str) -> None:
    check([body], "depthwise/", find_target(target), choice=choice)


def test_rows_and_channels_shared_out_by_every_kind_of_tile() -> None:
    body = task(depthwise(64, 5), (1, 23, 21, 64), (64, 1, 5, 5))
    plan = Depthwise().match(Problem(body, WEIGHTS, host()))
    assert isinstance(plan, DepthwisePlan)
    listed = [knobs for knobs in plan.candidates() if isinstance(knobs, SlideKnobs)]
    for share, rows in ((Share.CHANNELS, 2), (Share.ROWS, 4), (Share.CHANNELS, 1)):
        place = next(i for i, k in enumerate(listed) if (k.share, k.rows) == (share, rows))
        check([body], "depthwise/", choice=place)


@given(st.integers(1, 70), st.integers(1, 9), st.sampled_from([4, 8, 16]))
def test_a_pack_holds_every_weight_once(channels: int, taps: int, lanes: int) -> None:
    weights = np.arange(1, channels * taps + 1, dtype=np.float32).reshape(channels, 1, taps)
    pack = DepthwisePack(DType.F32, lanes)
    packed = pack(weights)
    assert packed.shape == pack.type(TensorType(weights.shape, DType.F32)).shape
    assert sorted(packed[packed != 0].tolist()) == sorted(weights.ravel().tolist())
    channel, tap = channels - 1, taps - 1
    place = (channel // lanes * taps + tap) * lanes + channel % lanes
    assert packed[place] == weights[channel, 0, tap]


def test_channels_are_shared_out_where_convolutions_around_share_them_out() -> None:
    wide = find_target("x86-64-v4:cores=2")
    for channels, kernel, share in ((960, 3, Share.CHANNELS), (384, 3, Share.ROWS)):
        body = task(depthwise(channels, kernel), (1, 7, 7, channels), (channels, 1, kernel, kernel))
        plan = Depthwise().match(Problem(body, WEIGHTS, wide))
        assert isinstance(plan, DepthwisePlan)
        knobs = plan.candidates()[0]
        assert isinstance(knobs, SlideKnobs)
        assert knobs.share is share


def test_several_strips_of_a_core_from_below() -> None:
    body = task(depthwise(20), (1, 112, 9, 20), (20, 1, 3, 3), after=clamped)
    check([body], "depthwise/", find_target("host:cores=2"))


def test_a_convolution_that_mixes_channels_goes_elsewhere() -> None:
    body = task(Conv(groups=3, channels_last=True), (1, 6, 6, 6), (6, 2, 1, 1))
    answer = Depthwise().match(Problem(body, WEIGHTS, find_target("x86-64-v3")))
    assert isinstance(answer, Miss)
    assert "mixes" in answer.reason
