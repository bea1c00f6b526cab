"""What a layer multiplies its weights with: rows of numbers, one for each place of its output.

A linear layer's rows are its inputs; a convolution's are the windows it slides over, as many of
them as are asked for, at places drawn at random (He, Zhang and Sun 2017 take ten of each image).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.graph import Node
from optc.ir.ops import Conv, Linear
from optc.passes.calibration import Array

Rows = NDArray[np.float32]
Places = NDArray[np.int64]


def channel_axis(node: Node) -> int:
    """The axis of the output that the layer's weights make."""
    rank = node.outputs[0].type.rank
    return 1 if isinstance(node.op, Conv) and not node.op.channels_last else rank - 1


def places_of(node: Node) -> int:
    """How many rows one call gives: elements of the output over its channels."""
    return node.outputs[0].type.elements // node.outputs[0].shape[channel_axis(node)]


def outputs_at(array: Array, axis: int, places: Places) -> Rows:
    """Rows [places, channels] of an output."""
    found: Rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])[places]
    return found


def inputs_at(node: Node, array: Array, places: Places) -> Rows:
    """Rows [places, groups, weights of an output] of an input, in the order of the weights."""
    if isinstance(node.op, Linear):
        found: Rows = array.reshape(-1, 1, array.shape[-1])[places]
        return found
    assert isinstance(node.op, Conv)
    op, kernel = node.op, node.inputs[1].shape[2:]
    x = np.moveaxis(array, -1, 1) if op.channels_last else array
    x = np.pad(x, ((0, 0), (0, 0), *op.padding))
    output = np.moveaxis(np.empty(node.outputs[0].shape, np.bool_), channel_axis(node), -1)
    sample, *spatial = np.unravel_index(places, output.shape[:-1])
    offsets = np.unravel_index(np.arange(math.prod(kernel)), kernel)
    steps = zip(spatial, offsets, op.stride, op.dilation, strict=True)
    inner = [
        place[:, None] * stride + inside * dilation for place, inside, stride, dilation in steps
    ]
    index: tuple[Any, ...] = (sample[:, None], slice(None), *inner)
    windows: Rows = x[index]  # [places, kernel, channels]
    return windows.transpose(0, 2, 1).reshape(len(places), op.groups, -1)
