"""How positions are coupled through matrix products, convolutions and attention.

A summed axis may lose positions: what is removed counts as zero in the sum.
"""

from __future__ import annotations

from collections.abc import Mapping

from optc.ir.graph import Node, Value
from optc.ir.ops import Attention, Conv, ConvTranspose, Linear, MatMul, Op
from optc.passes.prune.ties import Rule, Ties

SLIDES = "a convolution slides over this axis"


def _linear(node: Node, ties: Ties) -> None:
    x, weight, *bias = node.inputs
    y = node.output
    ties.same(x, y, range(x.type.rank - 1))
    ties.axis(x, -1, weight, 1)
    ties.axis(y, -1, weight, 0)
    for item in bias:
        ties.axis(y, -1, item, 0)


def _matmul(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, MatMul)
    a, b = node.inputs
    y = node.output
    inner, columns = (-1, -2) if node.op.transpose_b else (-2, -1)
    ties.axis(a, -1, b, inner)
    ties.axis(a, -2, y, -2)
    ties.axis(b, columns, y, -1)
    for item in (a, b):
        for back in range(3, item.type.rank + 1):
            if item.shape[-back] == y.shape[-back]:
                ties.axis(item, -back, y, -back)


def _conv(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Conv)
    weight = node.inputs[1]
    channel = _around(node, ties)
    ties.axis(node.output, channel, weight, 0)
    if node.op.groups == 1:
        ties.axis(node.inputs[0], channel, weight, 1)
        return
    _groups(node, ties, channel, weight)


def _conv_transpose(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, ConvTranspose)
    x, weight = node.inputs[:2]
    channel = _around(node, ties)
    ties.axis(x, channel, weight, 0)
    if node.op.groups == 1:
        ties.axis(node.output, channel, weight, 1)
        return
    _groups(node, ties, channel, weight)


def _around(node: Node, ties: Ties) -> int:
    """What all convolutions share: batch, bias, pinned spatial axes; gives the channel axis."""
    assert isinstance(node.op, Conv | ConvTranspose)
    x, weight, *bias = node.inputs
    y, rank = node.output, x.type.rank
    channel = rank - 1 if node.op.channels_last else 1
    spatial = [axis for axis in range(1, rank) if axis != channel]
    ties.same(x, y, (0,))
    ties.pin(x, spatial, SLIDES)
    ties.pin(y, spatial, SLIDES)
    ties.pin(weight, range(2, rank), SLIDES)
    for item in bias:
        ties.axis(y, channel, item, 0)
    return channel


def _groups(node: Node, ties: Ties, channel: int, weight: Value) -> None:
    """Groups leave whole: all have one width, and share the second axis of the weight."""
    assert isinstance(node.op, Conv | ConvTranspose)
    x, y, count = node.inputs[0], node.output, node.op.groups
    ties.pin(weight, (1,), "groups of channels leave whole")
    inputs, outputs = ties.atoms(x, channel), ties.atoms(y, channel)
    heads = inputs[:: max(1, len(inputs) // count)][:count]
    ties.groups(inputs, heads)
    ties.groups(outputs, heads)


def _attention(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Attention)
    q, k, v, *mask = node.inputs
    y, rank = node.output, q.type.rank
    for value in (k, v, y):
        ties.same(q, value, range(rank - 3))
    ties.axis(q, -3, y, -3)
    ties.axis(k, -3, v, -3)
    ties.groups(ties.atoms(q, -3), ties.atoms(k, -3))
    ties.axis(q, -2, y, -2)
    ties.axis(k, -2, v, -2)
    ties.axis(q, -1, k, -1)
    ties.axis(v, -1, y, -1)
    for item in mask:
        for back, value, axis in _mask_axes(q, k):
            if back <= item.type.rank and item.shape[-back] == value.shape[axis]:
                ties.axis(item, -back, value, axis)
    ties.pin(k, (-2,), "attention takes a softmax over this axis")
    if node.op.causal:
        ties.pin(q, (-2,), "causal attention compares places along this axis")


def _mask_axes(q: Value, k: Value) -> list[tuple[int, Value, int]]:
    """(axis from the end, value, its axis) of scores [..., H, S, T]."""
    return [(1, k, -2), *((back, q, -back) for back in range(2, q.type.rank + 1))]


RULES: Mapping[type[Op], Rule] = {
    Linear: _linear,
    MatMul: _matmul,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    Attention: _attention,
}
