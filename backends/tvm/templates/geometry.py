"""The loop bounds of convolutions and pools, read off the node: one description for every kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optc.backends.tvm.templates.taps import Phase, transposed, window
from optc.ir.graph import Node
from optc.ir.ops import Conv, ConvTranspose
from optc.ir.ops.contraction import spatial_axes
from optc.ir.ops.pooling import Pool


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution: `batch` x `groups` problems of `inputs` to `outputs` channels.

    `axes` has the phases of each spatial axis, the one that tiles run along last; `kernel` the
    window's extents; `space` the input's extents.
    """

    batch: int
    groups: int
    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    space: tuple[int, ...]
    axes: tuple[tuple[Phase, ...], ...]
    channels_last: bool

    @property
    def channels(self) -> int:
        """Channels of the input, all groups together."""
        return self.groups * self.inputs

    @property
    def taps(self) -> int:
        """Elements of the window."""
        return math.prod(self.kernel)

    @property
    def results(self) -> int:
        """Output positions, the batch included."""
        return self.batch * math.prod(sum(p.count for p in phases) for phases in self.axes)

    @property
    def flops(self) -> int:
        """Multiplications and additions; those with padding are counted."""
        products = math.prod(sum(p.count * p.taps for p in phases) for phases in self.axes)
        return 2 * self.batch * products * self.channels * self.outputs

    @property
    def is_pointwise(self) -> bool:
        """Whether every output position reads the input position of the same place alone."""
        phases = [phase for axis in self.axes for phase in axis]
        same = all(p.taps == 1 and p.move == p.step == 1 and p.never_outside for p in phases)
        return same and self.groups == 1

    def index(self, batch: object, place: tuple[object, ...], channel: object) -> list[object]:
        """Coordinates in the layout of the node's tensors."""
        tail = (*place, channel) if self.channels_last else (channel, *place)
        return [batch, *tail]


def pool_geometry(node: Node) -> Geometry:
    """The geometry of a pool, every channel being a group."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, Pool)
    inside = spatial_axes(x.type.rank, op.channels_last)
    axes = tuple(
        window(x.shape[axis], node.outputs[0].shape[axis], taps, stride, low, dilation)
        for axis, taps, stride, (low, _), dilation in zip(
            inside, op.kernel, op.stride, op.padding, op.dilation, strict=True
        )
    )
    channels = x.shape[-1] if op.channels_last else x.shape[1]
    space = tuple(x.shape[axis] for axis in inside)
    return Geometry(x.shape[0], channels, 1, 1, op.kernel, space, axes, op.channels_last)


def geometry(node: Node) -> Geometry:
    """The geometry of a `conv` or `conv_transpose` node."""
    op, (x, weight) = node.op, node.inputs[:2]
    assert isinstance(op, Conv | ConvTranspose)
    kernel = weight.shape[2:]
    space = tuple(x.shape[a] for a in spatial_axes(x.type.rank, op.channels_last))
    result = node.output.type
    extents = tuple(result.shape[a] for a in spatial_axes(result.rank, op.channels_last))
    phases = window if isinstance(op, Conv) else transposed
    axes = tuple(
        phases(inside, outside, taps, stride, low, dilation)
        for inside, outside, taps, stride, (low, _), dilation in zip(
            space, extents, kernel, op.stride, op.padding, op.dilation, strict=True
        )
    )
    if isinstance(op, Conv):
        inputs, outputs = weight.shape[1], weight.shape[0] // op.groups
    else:
        inputs, outputs = weight.shape[0] // op.groups, weight.shape[1]
    return Geometry(x.shape[0], op.groups, inputs, outputs, kernel, space, axes, op.channels_last)
