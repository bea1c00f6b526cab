"""Convolutions pad by themselves: a Pad of zeros before one costs a copy of the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optc.ir.graph import Node
from optc.ir.module import Module
from optc.ir.ops import Conv, Pad, PadMode
from optc.ir.ops.contraction import spatial_axes
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import made_by
from optc.passes.rewrite import Answer, Miss, Site, rewrite


@dataclass(frozen=True)
class FoldPad(Pass):
    """Take zeros that are padded around an image into the convolution that reads it."""

    name = "fold-pad"
    effect = Effect.ROUNDING  # the products with zeros are the same, their place in the sum is not

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with padding inside convolutions."""
        return rewrite(module, {Conv: (_fold,)}, ctx, code="N0302")


def _fold(node: Node, site: Site) -> Answer:
    pad = made_by(site, node.inputs[0], Pad)
    if pad is None or not isinstance(pad.op, Pad) or not isinstance(node.op, Conv):
        return None
    if pad.op.value != 0 and not pad.output.type.dtype.is_float:
        return None  # the zero of a quantized image: integerize put it there
    if pad.op.mode is not PadMode.CONSTANT or pad.op.value != 0:
        what = pad.op.value if pad.op.mode is PadMode.CONSTANT else pad.op.mode.value
        return Miss(f"the image is padded with {what}, not with zeros")
    axes = spatial_axes(node.inputs[0].type.rank, node.op.channels_last)
    widths = list(zip(pad.op.low, pad.op.high, strict=True))
    if any(sum(width) for axis, width in enumerate(widths) if axis not in axes):
        return Miss("the padding adds channels or images")
    padding = tuple(
        (low + widths[axis][0], high + widths[axis][1])
        for axis, (low, high) in zip(axes, node.op.padding, strict=True)
    )
    return site.emit(replace(node.op, padding=padding), pad.inputs[0], *node.inputs[1:])
