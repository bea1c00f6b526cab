"""Adaptive pooling as means or fixed windows, and transposed convolution as a convolution."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optc.ir.constant import constant
from optc.ir.graph import Node, Value
from optc.ir.ops import (
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    ConvTranspose,
    Op,
    Pad,
    ReduceMean,
    Reshape,
    Slice,
)  # fmt: skip
from optc.ir.ops.contraction import spatial_axes
from optc.passes.matching import reshaped
from optc.passes.rewrite import Answer, Miss, Rule, Site
from optc.passes.weights import known


def adaptive_pool(node: Node, site: Site) -> Answer:
    """To one element it is a mean; to a divisor of the extent, windows of one size."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, AdaptiveAvgPool)
    axes = spatial_axes(x.type.rank, op.channels_last)
    if all(size == 1 for size in op.size):
        return site.emit(ReduceMean(axes, True), x)
    extents = [x.shape[axis] for axis in axes]
    if any(extent % size for extent, size in zip(extents, op.size, strict=True)):
        return Miss(f"windows from {tuple(extents)} to {op.size} are not of one size")
    kernel = tuple(extent // size for extent, size in zip(extents, op.size, strict=True))
    zeros = tuple((0, 0) for _ in kernel)
    ones = (1,) * len(kernel)
    return site.emit(AvgPool(kernel, kernel, zeros, ones, op.channels_last, zeros), x)


def conv_transpose(node: Node, site: Site) -> Answer:
    """A convolution with the turned kernel over an image with zeros between its pixels."""
    op, (x, weight) = node.op, node.inputs[:2]
    assert isinstance(op, ConvTranspose)
    if not known(site, weight):
        return Miss("its weight is not a constant at hand")
    if op.channels_last:
        return Miss("its channels are the last axis")
    spread = _with_zeros(site, x, op.stride)
    kernel = site.constant(
        constant(_turned(site, weight, op.groups), weight.type.dtype), weight.hint
    )
    padding: list[tuple[int, int]] = []
    low, high = [0] * x.type.rank, [0] * x.type.rank
    for place, (extent, step) in enumerate(zip(weight.shape[2:], op.dilation, strict=True)):
        reach = step * (extent - 1)
        before = reach - op.padding[place][0]
        after = reach - op.padding[place][1] + op.output_padding[place]
        padding.append((max(before, 0), max(after, 0)))
        low[place + 2], high[place + 2] = max(-before, 0), max(-after, 0)
    cropped = _cropped(site, spread, low, high)
    ones = (1,) * len(op.stride)
    plain = Conv(ones, tuple(padding), op.dilation, op.groups)
    return site.emit(plain, cropped, kernel, *node.inputs[2:])


def _with_zeros(site: Site, x: Value, stride: tuple[int, ...]) -> Value:
    """stride - 1 zeros between neighbours, along each spatial axis."""
    for place, step in enumerate(stride):
        axis = place + 2
        if step == 1:
            continue
        split = (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :])
        high = [0] * len(split)
        high[axis + 1] = step - 1
        padded = site.emit(Pad((0,) * len(split), tuple(high)), site.emit(Reshape(split), x))
        extent = x.shape[axis] * step
        joined = reshaped(site, padded, (*x.shape[:axis], extent, *x.shape[axis + 1 :]))
        high = [0] * joined.type.rank
        high[axis] = step - 1
        x = _cropped(site, joined, [0] * joined.type.rank, high)
    return x


def _cropped(site: Site, x: Value, low: list[int], high: list[int]) -> Value:
    if not any((*low, *high)):
        return x
    stops = tuple(dim - after for dim, after in zip(x.shape, high, strict=True))
    return site.emit(Slice(tuple(low), stops, (1,) * x.type.rank), x)


def _turned(site: Site, weight: Value, groups: int) -> np.ndarray:
    """[C, O/groups, *K] as [O, C/groups, *K] with every kernel turned around."""
    item = site.constant_of(weight)
    assert item is not None
    inputs, outputs, *kernel = weight.shape
    array = item.array.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    array = array.reshape(groups * outputs, inputs // groups, *kernel)
    return np.ascontiguousarray(np.flip(array, axis=tuple(range(2, array.ndim))))


RULES: Mapping[type[Op], Rule] = {AdaptiveAvgPool: adaptive_pool, ConvTranspose: conv_transpose}
