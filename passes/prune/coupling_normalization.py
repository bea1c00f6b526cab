"""How positions are coupled through normalisations.

A norm's statistics are over what is kept, as if the rest had never been there: removing channels
under a layer norm is what the same network trained narrower would compute.
"""

from __future__ import annotations

from collections.abc import Mapping

from optc.ir.graph import Node
from optc.ir.ops import BatchNorm, GroupNorm, LayerNorm, LogSoftmax, Op, RmsNorm, Softmax
from optc.passes.prune.ties import Rule, Ties


def _batch_norm(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, BatchNorm)
    x, y = node.inputs[0], node.output
    ties.same(x, y, range(x.type.rank))
    for vector in node.inputs[1:]:
        ties.axis(x, -1 if node.op.channels_last else 1, vector, 0)


def _trailing_norm(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, LayerNorm | RmsNorm)
    x, y = node.inputs[0], node.output
    ties.same(x, y, range(x.type.rank))
    for item in node.inputs[1:]:
        ties.same(item, x, range(-node.op.axes, 0))


def _group_norm(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, GroupNorm)
    x, y, rank = node.inputs[0], node.output, node.inputs[0].type.rank
    channel = rank - 1 if node.op.channels_last else 1
    ties.same(x, y, range(rank))
    spatial = [axis for axis in range(1, rank) if axis != channel]
    ties.pin(x, spatial, "group norm takes statistics over this axis")
    for vector in node.inputs[1:]:
        ties.axis(x, channel, vector, 0)
    if node.op.groups > 1:  # one group may shrink; several must stay equally wide
        atoms = ties.atoms(x, channel)
        ties.groups(atoms, atoms[:: max(1, len(atoms) // node.op.groups)][: node.op.groups])


def _softmax(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Softmax)
    x = node.inputs[0]
    ties.same(x, node.output, range(x.type.rank))
    ties.pin(x, (node.op.axis,), f"{node.op.name} over this axis weighs its positions together")


RULES: Mapping[type[Op], Rule] = {
    BatchNorm: _batch_norm,
    LayerNorm: _trailing_norm,
    RmsNorm: _trailing_norm,
    GroupNorm: _group_norm,
    Softmax: _softmax,
    LogSoftmax: _softmax,
}
