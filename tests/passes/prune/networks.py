"""Random networks made of blocks, each of which is one way in which channels are coupled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st

from optc.ir.builder import Builder
from optc.ir.constant import constant
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.ops import (
    AdaptiveAvgPool,
    Attention,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Expand,
    GroupNorm,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Op,
    Pad,
    ReduceMean,
    ReduceSum,
    Reshape,
    RmsNorm,
    Slice,
    Softmax,
    Take,
    Transpose,
    ew,
)
from optc.ir.types import TensorType

Draw = Callable[..., object]


class Maker:
    """A builder with seeded weights in f64, so that the oracle is sharp."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.builder = Builder()
        self.numbers = np.random.default_rng(0)

    def pick(self, *items: object) -> object:
        """One of the items."""
        return self.draw(st.sampled_from(items))

    def weight(self, *shape: int) -> Value:
        """A random constant."""
        return self.builder.constant(constant(self.numbers.standard_normal(shape)))

    def positive(self, count: int) -> Value:
        """A random vector above one half."""
        return self.builder.constant(constant(self.numbers.random(count) + 0.5))

    def __call__(self, op: Op, *inputs: Value) -> Value:
        return self.builder.emit(op, *inputs)

    def linear(self, x: Value, width: int) -> Value:
        """A linear layer, perhaps with a bias."""
        bias = [self.weight(width)] * self.pick(0, 1)
        return self(Linear(), x, self.weight(width, x.shape[-1]), *bias)

    def conv(self, x: Value, width: int, *, groups: int = 1, last: bool = False) -> Value:
        """A 3x3 convolution that keeps the image's size, perhaps with a bias."""
        channels = x.shape[-1 if last else 1]
        op = Conv(padding=((1, 1), (1, 1)), groups=groups, channels_last=last)
        bias = [self.weight(width)] * self.pick(0, 1)
        return self(op, x, self.weight(width, channels // groups, 3, 3), *bias)


# Images: [1, C, H, W] -> [1, C', H, W].


def residual(make: Maker, x: Value) -> Value:
    """A shortcut around two convolutions."""
    inner = make(ew.Relu(), make.conv(x, 6))
    return make(ew.Add(), make.conv(inner, x.shape[1]), x)


def dense(make: Maker, x: Value) -> Value:
    """Concatenated features."""
    return make(Concat(1), x, make.conv(x, 4))


def depthwise(make: Maker, x: Value) -> Value:
    """An inverted bottleneck, perhaps with two outputs per channel."""
    wide = make(ew.HardSwish(), make.conv(x, 8))
    return make.conv(make.conv(wide, 8 * make.pick(1, 2), groups=8), 5)


def grouped(make: Maker, x: Value) -> Value:
    """Groups, and the channel shuffle between them."""
    y = make.conv(make.conv(x, 12), 8, groups=4)
    _, _, h, w = y.shape
    y = make(Transpose((0, 2, 1, 3, 4)), make(Reshape((1, 4, 2, h, w)), y))
    return make.conv(make(Reshape((1, 8, h, w)), y), 6)


def split(make: Maker, x: Value) -> Value:
    """A chunk in two, one half passed on as it is."""
    y = make.conv(x, 8)
    _, _, h, w = y.shape
    halves = [
        make(Slice((0, start, 0, 0), (1, start + 4, h, w), (1, 1, 1, 1)), y) for start in (0, 4)
    ]
    return make(Concat(1), halves[1], make.conv(halves[0], 3))


def excite(make: Maker, x: Value) -> Value:
    """Squeeze and excite: a scale per channel, broadcast."""
    y = make.conv(x, 7)
    pooled = make.pick(AdaptiveAvgPool((1, 1)), ReduceMean((2, 3), True))
    small = make(Reshape((1, 7)), make(pooled, y))
    scale = make(ew.Sigmoid(), make.linear(make(ew.Relu(), make.linear(small, 4)), 7))
    return make(ew.Mul(), y, make(Reshape((1, 7, 1, 1)), scale))


def image_norm(make: Maker, x: Value) -> Value:
    """A norm over images; in one group or as many as channels, its statistics are per kept ones."""
    y = make.conv(x, 8)
    if make.pick(True, False):
        return make(BatchNorm(), y, *(make.positive(8) for _ in range(4)))
    return make(GroupNorm(make.pick(1, 2, 4, 8)), y, make.positive(8), make.weight(8))


def upsample(make: Maker, x: Value) -> Value:
    """A transposed convolution and a pool back; perhaps grouped."""
    groups = make.pick(1, 2)
    y = make.conv(x, 6)
    op = ConvTranspose(stride=(2, 2), groups=groups)
    y = make(op, y, make.weight(6, 4 // groups, 2, 2), make.weight(4))
    return make(MaxPool((2, 2), (2, 2)), y)


def pad_shortcut(make: Maker, x: Value) -> Value:
    """Channels padded with zeros to meet a wider branch."""
    width = x.shape[1] + 3
    wide = make(Pad((0, 1, 0, 0), (0, 2, 0, 0)), x)
    return make(ew.Add(), wide, make.conv(x, width))


def channels_last(make: Maker, x: Value) -> Value:
    """A convolution in the other layout, with a norm over its channels."""
    y = make.conv(make(Transpose((0, 2, 3, 1)), x), 6, last=True)
    y = make(LayerNorm(), y, make.positive(6), make.weight(6))
    return make(Transpose((0, 3, 1, 2)), y)


IMAGE = (
    residual, dense, depthwise, grouped, split, excite, image_norm, upsample, pad_shortcut,
    channels_last,
)  # fmt: skip

# Sequences: [1, S, E] -> [1, S, E].


def normed(make: Maker, x: Value) -> Value:
    """A norm whose statistics are over what is kept."""
    width = x.shape[-1]
    if make.pick(True, False):
        return make(RmsNorm(), x, make.positive(width))
    return make(LayerNorm(), x, make.positive(width), make.weight(width))


def gated(make: Maker, x: Value) -> Value:
    """A gated MLP; perhaps with one merged projection."""
    y = normed(make, x)
    if make.pick(True, False):
        both = make.linear(y, 16)
        first, second = (
            make(Slice((0, 0, n), (1, x.shape[1], n + 8), (1, 1, 1)), both) for n in (0, 8)
        )
    else:
        first, second = make.linear(y, 8), make.linear(y, 8)
    inner = make(ew.Mul(), make(ew.Silu(), first), second)
    return make(ew.Add(), x, make.linear(inner, x.shape[-1]))


def _heads(make: Maker, x: Value, heads: int) -> Value:
    _, length, width = x.shape
    return make(Transpose((0, 2, 1, 3)), make(Reshape((1, length, heads, width // heads)), x))


def attention(make: Maker, x: Value) -> Value:
    """Separate projections, grouped queries, as one op or as products; perhaps a bias per head."""
    groups = make.pick(1, 2, 4)
    q = _heads(make, make.linear(x, 8), 4)
    k, v = (_heads(make, make.linear(x, 2 * groups), groups) for _ in range(2))
    length = x.shape[1]
    if make.pick(True, False):
        mask = [make.weight(1, 4, length, length)] * make.pick(0, 1)
        y = make(Attention(scale=0.7), q, k, v, *mask)
    else:
        k, v = (_repeat(make, item, 4) for item in (k, v))
        scores = make(Softmax(3), make(MatMul(transpose_b=True), q, k))
        y = make(MatMul(), scores, v)
    return make(ew.Add(), x, _joined(make, y, x.shape[-1]))


def _repeat(make: Maker, x: Value, heads: int) -> Value:
    _, groups, length, width = x.shape
    y = make(Reshape((1, groups, 1, length, width)), x)
    y = make(Expand((1, groups, heads // groups, length, width)), y)
    return make(Reshape((1, heads, length, width)), y)


def _joined(make: Maker, y: Value, width: int) -> Value:
    _, heads, length, size = y.shape
    y = make(Reshape((1, length, heads * size)), make(Transpose((0, 2, 1, 3)), y))
    return make.linear(y, width)


def merged(make: Maker, x: Value) -> Value:
    """One projection for queries, keys and values, split before or after the heads."""
    length = x.shape[1]
    both = make.linear(x, 24)
    if make.pick(True, False):
        y = make(Transpose((2, 0, 3, 1, 4)), make(Reshape((1, length, 3, 4, 2)), both))
        parts = [
            make(
                Reshape((1, 4, length, 2)),
                make(Slice((n, 0, 0, 0, 0), (n + 1, 1, 4, length, 2), (1, 1, 1, 1, 1)), y),
            )
            for n in range(3)
        ]
    else:
        cuts = [
            make(Slice((0, 0, 8 * n), (1, length, 8 * n + 8), (1, 1, 1)), both) for n in range(3)
        ]
        parts = [_heads(make, cut, 4) for cut in cuts]
    return make(ew.Add(), x, _joined(make, make(Attention(causal=True), *parts), x.shape[-1]))


SEQUENCE = (gated, attention, merged)


def _grow(make: Maker, x: Value, blocks: Sequence[Callable[[Maker, Value], Value]]) -> Value:
    for _ in range(make.draw(st.integers(1, 3))):
        x = make.pick(*blocks)(make, x)
    return x


@st.composite
def image_nets(draw: Draw) -> Graph:
    """Blocks over images, flattened in either layout, and a classifier."""
    make = Maker(draw)
    x = make.builder.input(TensorType((1, 3, 4, 4), DType.F64))
    y = _grow(make, make.conv(x, 6), IMAGE)
    if make.pick(True, False):
        y = make(Transpose((0, 2, 3, 1)), y)
    flat = make(Reshape((1, y.type.elements)), y)
    return make.builder.build([make.linear(make(ew.Relu(), make.linear(flat, 5)), 3)])


@st.composite
def text_nets(draw: Draw) -> Graph:
    """An embedding, blocks, and an output tied to the embedding or a pooled classifier."""
    make = Maker(draw)
    tokens = make.builder.input(TensorType((1, 5), DType.I64))
    table = make.weight(7, 6)
    x = make(ew.Add(), make(Take(0), table, tokens), make.weight(1, 5, 6))
    y = normed(make, _grow(make, x, SEQUENCE))
    if make.pick(True, False):
        return make.builder.build([make(Linear(), y, table)])
    pooled = make(make.pick(ReduceMean((1,)), ReduceSum((1,))), y)
    return make.builder.build([make.linear(pooled, 2)])
