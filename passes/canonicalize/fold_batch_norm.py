"""Batch norm of inference is a scale and a shift per channel (Jacob et al. 2018, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import BatchNorm, Conv, ConvTranspose, Linear, ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.canonicalize.scaling import refusal, scaled_layer
from optc.passes.matching import made_by
from optc.passes.rewrite import Answer, Miss, Site, rewrite
from optc.passes.weights import known, numbers, rounded


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch norms into the weights of the convolution or linear layer before them.

    Where that layer has other users, or its weights are not constant, the batch norm becomes a
    multiplication and an addition.
    """

    name = "fold-batch-norm"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module without batch norms that have constant statistics."""
        return rewrite(module, {BatchNorm: (_into_layer, _standalone)}, ctx, code="N0303")


def _factors(node: Node, site: Site) -> tuple[np.ndarray, np.ndarray] | None:
    """(a, b) such that the batch norm is x * a + b."""
    assert isinstance(node.op, BatchNorm)
    if not known(site, *node.inputs[1:]):
        return None
    mean, variance, scale, bias = (numbers(site, value) for value in node.inputs[1:])
    factor = scale / np.sqrt(variance + node.op.epsilon)
    return factor, bias - mean * factor


def _into_layer(node: Node, site: Site) -> Answer:
    layer = made_by(site, node.inputs[0], Conv, ConvTranspose, Linear)
    if layer is None:
        return None
    factors = _factors(node, site)
    if factors is None:
        return Miss("its statistics are computed at run time")
    if not _same_channels(node.op, layer):
        return Miss(f"it normalises another axis than the channels of {layer.op.name}")
    reason = refusal(site, layer)
    return Miss(reason) if reason else scaled_layer(site, layer, *factors)


def _same_channels(op: object, layer: Node) -> bool:
    assert isinstance(op, BatchNorm)
    if isinstance(layer.op, Conv | ConvTranspose):
        return layer.op.channels_last == op.channels_last
    return op.channels_last or layer.output.type.rank == 2


def _standalone(node: Node, site: Site) -> Answer:
    factors = _factors(node, site)
    assert isinstance(node.op, BatchNorm)
    x = node.inputs[0]
    if factors is None or not x.type.dtype.is_float:
        return None
    trailing = 0 if node.op.channels_last else x.type.rank - 2
    factor = _per_channel(site, factors[0], x, trailing, "scale")
    shift = _per_channel(site, factors[1], x, trailing, "shift")
    return site.emit(ew.Add(), site.emit(ew.Mul(), x, factor), shift)


def _per_channel(site: Site, array: np.ndarray, x: Value, trailing: int, hint: str) -> Value:
    shape = (array.size, *[1] * trailing)
    return site.constant(rounded(array.reshape(shape), x.type.dtype), hint)
