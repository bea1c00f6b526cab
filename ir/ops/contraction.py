"""Ops that multiply and sum: matrix products, convolutions, attention. The anchors of fusion.

Of 8-bit integers the sums are exact: x u8 or i8, weight i8, bias i32 give i32 (which wraps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optc.ir.dtype import DType
from optc.ir.ops.base import Op, OpError, Types, require, same_dtype
from optc.ir.types import TensorType, broadcast

Pairs = tuple[tuple[int, int], ...]
BYTES = (DType.I8, DType.U8)


def product_dtype(x: TensorType, weight: TensorType, *biases: TensorType) -> DType:
    """The dtype of x times weight plus bias: one for all, or i32 of bytes; raises OpError."""
    if x.dtype not in BYTES:
        return same_dtype(x, weight, *biases)
    require(weight.dtype is DType.I8, f"the weight beside {x} is i8, not {weight}")
    for bias in biases:
        require(bias.dtype is DType.I32, f"the bias of a product of bytes is i32, not {bias}")
    return DType.I32


@dataclass(frozen=True, slots=True)
class MatMul(Op):
    """[..., M, K] x [..., K, N] -> [..., M, N], leading axes broadcast.

    `transpose_b` takes [..., N, K]. Both u8 or i8, in any mixture, give i32.
    """

    arity: ClassVar[tuple[int, int]] = (2, 2)
    transpose_b: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        a, b = inputs
        require(a.rank >= 2 and b.rank >= 2, f"matmul takes matrices, not {a} and {b}")
        rows, columns = (b.shape[-1], b.shape[-2]) if self.transpose_b else b.shape[-2:]
        require(a.shape[-1] == rows, f"matmul: inner extents of {a} and {b} differ")
        try:
            batch = broadcast(a.shape[:-2], b.shape[:-2])
        except ValueError as problem:
            raise OpError(str(problem)) from None
        small = a.dtype in BYTES and b.dtype in BYTES
        dtype = DType.I32 if small else same_dtype(a, b)
        return (TensorType((*batch, a.shape[-2], columns), dtype),)


@dataclass(frozen=True, slots=True)
class Linear(Op):
    """Inputs x [..., K], weight [N, K], bias [N] (may be left out) -> [..., N]."""

    arity: ClassVar[tuple[int, int]] = (2, 3)

    def _infer(self, *inputs: TensorType) -> Types:
        x, weight = inputs[:2]
        dtype = product_dtype(*inputs)
        fits = weight.rank == 2 and x.rank >= 1 and x.shape[-1] == weight.shape[1]
        require(fits, f"linear: {x} does not fit weight {weight}")
        for bias in inputs[2:]:
            require(
                bias.shape == weight.shape[:1], f"linear bias is {weight.shape[:1]}, not {bias}"
            )
        return (TensorType((*x.shape[:-1], weight.shape[0]), dtype),)


def spatial_axes(rank: int, channels_last: bool) -> tuple[int, ...]:
    """Axes that are neither batch nor channel in a tensor of `rank`."""
    return tuple(range(1, rank - 1)) if channels_last else tuple(range(2, rank))


def with_spatial(
    x: TensorType, channels: int, extents: list[int], channels_last: bool
) -> TensorType:
    """The type [N, channels, *extents] in the layout asked for."""
    tail = (*extents, channels) if channels_last else (channels, *extents)
    return x.with_shape((x.shape[0], *tail))


def check_bias(channels: int, *biases: TensorType) -> None:
    """A bias has one element per output channel."""
    for bias in biases:
        require(bias.shape == (channels,), f"bias is ({channels},), not {bias}")


@dataclass(frozen=True, slots=True)
class Conv(Op):
    """Convolution over 1 to 3 spatial axes.

    Inputs x [N, C, *S] ([N, *S, C] when `channels_last`), weight [O, C/groups, *K] always, and
    bias [O], which may be left out. `padding` is (low, high) zeros per spatial axis.
    """

    arity: ClassVar[tuple[int, int]] = (2, 3)
    stride: tuple[int, ...] = (1, 1)
    padding: Pairs = ((0, 0), (0, 0))
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    channels_last: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        x, weight = inputs[:2]
        dtype = product_dtype(*inputs)
        count = len(self.stride)
        fits = (
            x.rank == weight.rank == count + 2 and len(self.padding) == len(self.dilation) == count
        )
        require(fits, f"conv with stride {self.stride} does not fit {x} and weight {weight}")
        channels = x.shape[-1] if self.channels_last else x.shape[1]
        fits = channels == weight.shape[1] * self.groups and weight.shape[0] % self.groups == 0
        require(fits, f"conv in {self.groups} groups: {x} does not fit weight {weight}")
        check_bias(weight.shape[0], *inputs[2:])
        extents = [
            (x.shape[axis] + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1
            for axis, pad, dilation, kernel, stride in zip(
                spatial_axes(x.rank, self.channels_last),
                self.padding,
                self.dilation,
                weight.shape[2:],
                self.stride,
                strict=True,
            )
        ]
        require(min(extents) >= 0, f"conv kernel {weight.shape[2:]} is larger than padded {x}")
        x = x.with_dtype(dtype)
        return (with_spatial(x, weight.shape[0], extents, self.channels_last),)


@dataclass(frozen=True, slots=True)
class ConvTranspose(Op):
    """Transposed convolution: inputs x, weight [C, O/groups, *K], bias [O] (may be left out).

    Extent: (in - 1) * stride - sum(padding) + dilation * (kernel - 1) + output_padding + 1.
    """

    arity: ClassVar[tuple[int, int]] = (2, 3)
    stride: tuple[int, ...] = (1, 1)
    padding: Pairs = ((0, 0), (0, 0))
    output_padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    channels_last: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        x, weight = inputs[:2]
        dtype = product_dtype(*inputs)
        require(x.rank == weight.rank == len(self.stride) + 2, f"conv_transpose: {x} and {weight}")
        channels = x.shape[-1] if self.channels_last else x.shape[1]
        fits = channels == weight.shape[0] and channels % self.groups == 0
        require(fits, f"conv_transpose in {self.groups} groups: {x} does not fit weight {weight}")
        check_bias(weight.shape[1] * self.groups, *inputs[2:])
        extents = [
            (x.shape[axis] - 1) * stride - sum(pad) + dilation * (kernel - 1) + extra + 1
            for axis, stride, pad, dilation, kernel, extra in zip(
                spatial_axes(x.rank, self.channels_last),
                self.stride,
                self.padding,
                self.dilation,
                weight.shape[2:],
                self.output_padding,
                strict=True,
            )
        ]
        require(min(extents) >= 0, f"conv_transpose of {x} has no output")
        outputs = weight.shape[1] * self.groups
        return (with_spatial(x.with_dtype(dtype), outputs, extents, self.channels_last),)


@dataclass(frozen=True, slots=True)
class Attention(Op):
    """softmax(scale * q k^T + mask) v (Vaswani et al. 2017, section 3.2.1).

    Inputs q [..., H, S, D], k [..., G, T, D], v [..., G, T, E] with H a multiple of G (grouped
    queries), and a mask that broadcasts to [..., H, S, T]: bool (True = attend) or added floats.
    `causal` hides t > s. A row with nothing to attend to gives 0.
    """

    arity: ClassVar[tuple[int, int]] = (3, 4)
    scale: float = 1.0
    causal: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        q, k, v = inputs[:3]
        same_dtype(q, k, v)
        require(q.rank == k.rank == v.rank >= 3, f"attention takes equal ranks, not {q}, {k}, {v}")
        fits = q.shape[-1] == k.shape[-1] and k.shape[:-1] == v.shape[:-1]
        fits = fits and q.shape[:-3] == k.shape[:-3] and q.shape[-3] % k.shape[-3] == 0
        require(fits, f"attention: {q}, {k} and {v} do not fit together")
        for mask in inputs[3:]:
            scores = (*q.shape[:-1], k.shape[-2])
            fits = mask.dtype in (DType.BOOL, q.dtype) and broadcast(mask.shape, scores) == scores
            require(fits, f"attention mask {mask} does not broadcast to {scores}")
        return (q.with_shape((*q.shape[:-1], v.shape[-1])),)
