"""A layer whose outputs are scaled and shifted per channel is a layer with other weights."""

from __future__ import annotations

import numpy as np

from optc.ir.graph import Node, Value
from optc.ir.ops import Conv, ConvTranspose, Linear
from optc.passes.rewrite import Site
from optc.passes.weights import known, numbers, rounded

LAYERS = (Conv, ConvTranspose, Linear)


def channels(layer: Node) -> int:
    """Output channels of a Conv, ConvTranspose or Linear."""
    weight = layer.inputs[1]
    if isinstance(layer.op, ConvTranspose):
        return weight.shape[1] * layer.op.groups
    return weight.shape[0]


def refusal(site: Site, layer: Node) -> str:
    """Why the layer's weights cannot be changed for one user; empty when they can."""
    if not known(site, *layer.inputs[1:]):
        return f"the weights of {layer.op.name} are not constants at hand"
    if site.uses(layer.output) > 1:
        return f"the result of {layer.op.name} has other users"
    return ""


def scaled_layer(site: Site, layer: Node, factor: np.ndarray, shift: np.ndarray) -> Value:
    """The layer that gives y * factor + shift; both have one number, or one per output channel."""
    x, weight = layer.inputs[:2]
    dtype = weight.type.dtype
    factor = np.broadcast_to(factor, (channels(layer),))
    inputs = [x, weight]
    if not np.all(factor == 1):
        array = numbers(site, weight) * _along_outputs(layer, factor)
        inputs[1] = site.constant(rounded(array, dtype), weight.hint)
    old = numbers(site, layer.inputs[2]) * factor if len(layer.inputs) > 2 else 0.0
    bias = np.broadcast_to(old + shift, (channels(layer),))
    if len(layer.inputs) > 2 or np.any(bias != 0):
        hint = layer.inputs[2].hint if len(layer.inputs) > 2 else "bias"
        inputs.append(site.constant(rounded(bias, dtype), hint))
    return site.emit(layer.op, *inputs)


def _along_outputs(layer: Node, factor: np.ndarray) -> np.ndarray:
    """The factors in the shape that multiplies the layer's weight."""
    weight = layer.inputs[1].shape
    if not isinstance(layer.op, ConvTranspose):
        return factor.reshape(-1, *[1] * (len(weight) - 1))
    # weight is [C, O/groups, *K]: group g of the inputs makes group g of the outputs.
    rows = factor.reshape(layer.op.groups, 1, weight[1])
    rows = np.broadcast_to(rows, (layer.op.groups, weight[0] // layer.op.groups, weight[1]))
    return rows.reshape(weight[0], weight[1], *[1] * (len(weight) - 2))
