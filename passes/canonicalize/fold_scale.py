"""Constant factors and offsets after a layer belong into its weights and bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import Conv, ConvTranspose, ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.canonicalize.scaling import LAYERS, channels, refusal, scaled_layer
from optc.passes.matching import made_by
from optc.passes.rewrite import Answer, Miss, Site, rewrite
from optc.passes.weights import known, numbers


@dataclass(frozen=True)
class FoldScale(Pass):
    """Fold constant factors and offsets, one or one per channel, into the layer before them.

    The layer is a convolution, a transposed convolution or a linear layer with constant weights
    whose result nothing else reads. Expects constants on the right (simplify-arithmetic).
    """

    name = "fold-scale"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with scaled weights."""
        return rewrite(module, {ew.Mul: (_fold,), ew.Add: (_fold,)}, ctx, code="N0303")


def _fold(node: Node, site: Site) -> Answer:
    y, c = node.inputs
    layer = made_by(site, y, *LAYERS)
    if layer is None or not known(site, c) or y.type != node.output.type:
        return None
    row = _per_channel(layer, c, numbers(site, c))
    if row is None:
        return Miss(f"{c.type} is not one number per channel of {layer.op.name}")
    reason = refusal(site, layer)
    if reason:
        # A lone number beside other users is part of an activation, and no news to anybody.
        return Miss(reason) if row.size > 1 else None
    if isinstance(node.op, ew.Mul):
        return scaled_layer(site, layer, row, np.zeros(1))
    return scaled_layer(site, layer, np.ones(1), row)


def _per_channel(layer: Node, constant: Value, array: np.ndarray) -> np.ndarray | None:
    """The constant as one number per output channel, or None if it varies along another axis."""
    rank = layer.output.type.rank
    axis = rank - 1
    if isinstance(layer.op, Conv | ConvTranspose) and not layer.op.channels_last:
        axis = 1
    shape = (1,) * (rank - constant.type.rank) + constant.shape
    if any(extent != 1 for place, extent in enumerate(shape) if place != axis):
        return None
    row = array.reshape(-1)
    return row if row.size in (1, channels(layer)) else None
