"""Means of dequantized bytes as sums of integers, whose divisor joins what requantizes them.

The mean of n bytes is (sum(q) - n * zero) * (scale / n): a sum in i32 is exact in any order, which
one of floats is not. Over windows it is a depthwise convolution whose weights are ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from optc.ir.constant import splat
from optc.ir.dtype import DType
from optc.ir.graph import Node, Value
from optc.ir.ops import AvgPool, Conv, Op, Pad, ReduceMean, ReduceSum, ew
from optc.ir.ops.contraction import spatial_axes
from optc.ir.types import TensorType
from optc.passes.precision.affine import Affine
from optc.passes.rewrite import Miss, Site

_WEIGHTS = 1 << 10  # ones of a channel, of which the artifact holds every one
_MOST = 1 << 22  # elements of a sum: 255 times as many fit i32, and what zeros add to it


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums in i32, zeros taken off, and what a unit of them is."""

    value: Value
    unit: float


def mean_sums(node: Node, q: Value, source: Affine, site: Site) -> Sums | Miss:
    """The sums of a `reduce_mean` or `avg_pool` node over the bytes `q`."""
    if isinstance(node.op, AvgPool):
        return _windows(node.op, q, source, site)
    assert isinstance(node.op, ReduceMean)
    count = math.prod(q.shape[axis] for axis in node.op.axes)
    if not 0 < count <= _MOST:
        return Miss(f"a sum of {count} bytes may not fit i32")
    wide = site.emit(ew.Cast(DType.I32), q)
    sums = site.emit(ReduceSum(node.op.axes, node.op.keepdims), wide)
    if source.zero:
        zeros = site.constant(splat(-count * source.zero, TensorType((), DType.I32)), "zeros")
        sums = site.emit(ew.Add(), sums, zeros)
    return Sums(sums, source.scale / count)


def _windows(op: AvgPool, q: Value, source: Affine, site: Site) -> Sums | Miss:
    count = math.prod(op.kernel)
    if any(map(any, op.padding)) and op.divisor is None and op.counted != op.padding:
        return Miss("its windows have unlike numbers of elements")
    if count > _WEIGHTS:
        return Miss(f"each channel would have {count} ones as weights")
    channels = q.shape[-1] if op.channels_last else q.shape[1]
    plain: Op = Conv(op.stride, op.padding, op.dilation, channels, op.channels_last)
    conv, image = padded(plain, q, source.zero, site)
    ones = site.constant(splat(1, TensorType((channels, 1, *op.kernel), DType.I8)), "ones")
    extra = []
    if source.zero:
        zeros = splat(-count * source.zero, TensorType((channels,), DType.I32))
        extra.append(site.constant(zeros, "zeros"))
    sums = site.emit(conv, image, ones, *extra)
    return Sums(sums, source.scale / (op.divisor or count))


def padded(op: Op, q: Value, zero: int, site: Site) -> tuple[Op, Value]:
    """A convolution adds zeros; an image whose zero is another number is padded before it."""
    if not isinstance(op, Conv) or not zero or not any(map(any, op.padding)):
        return op, q
    low, high = [0] * q.type.rank, [0] * q.type.rank
    for axis, (before, after) in zip(
        spatial_axes(q.type.rank, op.channels_last), op.padding, strict=True
    ):
        low[axis], high[axis] = before, after
    image = site.emit(Pad(tuple(low), tuple(high), value=zero), q, hint=q.hint)
    return replace(op, padding=((0, 0),) * len(op.padding)), image
