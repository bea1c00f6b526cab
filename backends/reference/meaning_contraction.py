"""What contractions mean, as torch functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from optc.backends.reference.dtypes import Meaning, widened
from optc.ir.ops import Attention, Conv, ConvTranspose, Linear, MatMul, Op
from optc.ir.ops.contraction import Pairs


def channels_first(meaning: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Hand x to a torch function that wants channels on axis 1, and turn the result back."""

    def run(op: Any, x: Tensor, *rest: Tensor) -> Tensor:
        if not op.channels_last:
            return meaning(op, x, *rest)
        return meaning(op, x.movedim(-1, 1), *rest).movedim(1, -1)

    return run


def widths(pairs: Pairs) -> list[int]:
    """(low, high) per axis in the order that torch's pads take: last axis first."""
    return [width for pair in reversed(pairs) for width in pair]


def _matmul(op: MatMul, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b.mT if op.transpose_b else b)


def _conv(op: Conv, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    padding = [low for low, _ in op.padding]
    if any(low != high for low, high in op.padding):
        x, padding = torch.constant_pad_nd(x, widths(op.padding)), [0] * len(padding)
    zeros = [0] * len(padding)
    return torch.convolution(
        x, weight, bias, op.stride, padding, op.dilation, False, zeros, op.groups
    )


def _conv_transpose(
    op: ConvTranspose, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    zeros = [0] * len(op.stride)
    full = torch.convolution(x, weight, None, op.stride, zeros, op.dilation, True, zeros, op.groups)
    pairs = zip(op.padding, op.output_padding, strict=True)
    crop = widths(tuple((-low, extra - high) for (low, high), extra in pairs))
    y = torch.constant_pad_nd(full, crop)
    return y if bias is None else y + bias.reshape(-1, *[1] * len(zeros))


def _attention(
    op: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    repeats = q.shape[-3] // k.shape[-3]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, -3), v.repeat_interleave(repeats, -3)
    scores = (q * op.scale) @ k.mT
    if mask is not None and mask.dtype is torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    if op.causal:
        scores = scores.masked_fill(_above_diagonal(scores), float("-inf"))
    blind = (scores == float("-inf")).all(-1, keepdim=True)
    # Blind rows are taken out before the softmax, so that their gradients are zero and not nan.
    weights = torch.softmax(scores.masked_fill(blind, 0), -1).masked_fill(blind, 0)
    return weights @ v


def _above_diagonal(scores: Tensor) -> Tensor:
    ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    return ones.triu(1)


_BYTES = (torch.int8, torch.uint8)
_MOST = 255 * 128  # of a product of bytes


def _exact(meaning: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function, sums of products of bytes exact: no sum of integers in f64 is rounded.

    One input channel per group is summed in f32 where that is exact too: f64 has no fast way.
    """

    def run(op: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dtype not in _BYTES or weight.dtype not in _BYTES:
            return meaning(op, x, weight, *([] if bias is None else [bias]))
        thin = isinstance(op, Conv) and weight.shape[1] == 1
        thin = thin and weight[:1].numel() * _MOST < 1 << 24
        kind = torch.float32 if thin else torch.float64
        total = meaning(op, x.to(kind), weight.to(kind)).long()
        if bias is not None:
            last = isinstance(op, Linear) or op.channels_last
            shape = (-1,) if last else (-1, *[1] * (total.dim() - 2))
            total = total + bias.long().reshape(shape)
        return total.to(torch.int32)

    return run


def _linear(_: Linear, *inputs: Tensor) -> Tensor:
    return torch.nn.functional.linear(*inputs)


MEANING: Mapping[type[Op], Meaning] = {
    MatMul: widened(_exact(_matmul)),
    Linear: widened(_exact(_linear)),
    Conv: widened(_exact(channels_first(_conv))),
    ConvTranspose: widened(_exact(channels_first(_conv_transpose))),
    Attention: widened(_attention),
}
