"""How positions are coupled through ops over images and sequences, and through finished tasks."""

from __future__ import annotations

from collections.abc import Mapping

from optc.ir.graph import Node
from optc.ir.ops import (
    AdaptiveAvgPool,
    AvgPool,
    EmbeddingBag,
    GridSample,
    Gru,
    Lstm,
    MaxPool,
    MaxPoolIndices,
    Op,
    Resize,
    Task,
)
from optc.ir.ops.pooling import Pool
from optc.passes.prune.ties import Rule, Ties, Whole


def _window(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Pool | AdaptiveAvgPool | Resize)
    x, rank = node.inputs[0], node.inputs[0].type.rank
    channel = rank - 1 if node.op.channels_last else 1
    spatial = [axis for axis in range(1, rank) if axis != channel]
    reason = f"{node.op.name} reads neighbours along this axis"
    ties.pin(x, spatial, reason)
    for y in node.outputs:
        ties.same(x, y, (0, channel))
        ties.pin(y, spatial, reason)


def _grid_sample(node: Node, ties: Ties) -> None:
    x, grid = node.inputs
    y = node.output
    ties.same(x, y, (0, 1))
    ties.same(x, grid, (0,))
    ties.axis(grid, 1, y, 2)
    ties.axis(grid, 2, y, 3)
    ties.pin(x, (2, 3), "grid_sample reads places along this axis")
    ties.pin(grid, (3,), "grid_sample reads coordinates from this axis")


def _recurrent(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Lstm | Gru)
    states = 2 if isinstance(node.op, Lstm) else 1
    x, hidden, weights = node.inputs[0], node.inputs[1 : 1 + states], node.inputs[1 + states :]
    y, last = node.outputs[0], node.outputs[1:]
    for state in (*hidden, *last):
        ties.axis(x, 1, state, 0)
    ties.axis(x, 1, y, 1)
    ties.axis(x, 2, weights[0], 1)
    ties.pin(x, (0,), "a recurrent layer walks along this axis")
    ties.pin(y, (0,), "a recurrent layer walks along this axis")
    units = f"the units of a recurrent layer ({node.op.name}) stay whole"
    for value in (y, *hidden, *last):
        ties.pin(value, (-1,), units)
    ties.pin(weights[0], (0,), units)
    for weight in weights[1:]:
        ties.pin(weight, range(weight.type.rank), units)


def _embedding_bag(node: Node, ties: Ties) -> None:
    weight, *rest = node.inputs
    ties.axis(weight, 1, node.output, 1)
    ties.pin(weight, (0,), "embedding_bag picks positions of this axis by number")
    ties.pin(node.output, (0,), "embedding_bag borders are given for all bags")
    ties.pin_all(rest, "embedding_bag borders are given for all bags")


RULES: Mapping[type[Op], Rule] = {
    MaxPool: _window,
    MaxPoolIndices: _window,
    AvgPool: _window,
    AdaptiveAvgPool: _window,
    Resize: _window,
    GridSample: _grid_sample,
    Lstm: _recurrent,
    Gru: _recurrent,
    EmbeddingBag: _embedding_bag,
    Task: Whole("it is fused already: prune before fuse"),
}
