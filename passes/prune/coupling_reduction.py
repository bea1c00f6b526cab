"""How positions are coupled through reductions, running folds and orderings.

A folded axis may lose positions where zero is neutral (sum, any, running sum), or where the fold is
a mean, whose statistics are over what is kept. Zero is not neutral for the others.
"""

from __future__ import annotations

from collections.abc import Mapping

from optc.ir.graph import Node, Value
from optc.ir.ops import (
    ArgMax,
    ArgMin,
    CumProd,
    CumSum,
    Op,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Sort,
    TopK,
)
from optc.ir.ops.reduction import ArgReduce, AxisOp, Reduce
from optc.passes.prune.ties import Rule, Ties


def _neutral(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Reduce)
    _around(ties, node.inputs[0], node.output, node.op.axes, keepdims=node.op.keepdims)


def _extreme(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Reduce)
    _neutral(node, ties)
    reason = f"{node.op.name} over this axis would see a removed position as zero"
    ties.pin(node.inputs[0], node.op.axes, reason)


def _arg(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, ArgReduce)
    _around(ties, node.inputs[0], node.output, (node.op.axis,), keepdims=node.op.keepdims)
    ties.pin(node.inputs[0], (node.op.axis,), f"{node.op.name} gives places along this axis")


def _cumulative_sum(node: Node, ties: Ties) -> None:
    ties.same(node.inputs[0], node.output, range(node.output.type.rank))


def _cumulative_product(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, AxisOp)
    _cumulative_sum(node, ties)
    reason = f"{node.op.name} along this axis would see a removed position as zero"
    ties.pin(node.output, (node.op.axis,), reason)


def _ordering(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Sort | TopK)
    (x,), rank = node.inputs, node.inputs[0].type.rank
    reason = f"{node.op.name} orders the positions of this axis"
    for y in node.outputs:
        ties.same(x, y, [axis for axis in range(rank) if axis != node.op.axis])
        ties.pin(y, (node.op.axis,), reason)
    ties.pin(x, (node.op.axis,), reason)


def _around(ties: Ties, x: Value, y: Value, axes: tuple[int, ...], *, keepdims: bool) -> None:
    """Tie the axes that are not folded."""
    kept = [axis for axis in range(x.type.rank) if axis not in axes]
    for place, axis in enumerate(kept):
        ties.axis(x, axis, y, axis if keepdims else place)


RULES: Mapping[type[Op], Rule] = {
    ReduceSum: _neutral,
    ReduceMean: _neutral,
    ReduceAny: _neutral,
    ReduceProd: _extreme,
    ReduceMax: _extreme,
    ReduceMin: _extreme,
    ReduceAll: _extreme,
    CumSum: _cumulative_sum,
    CumProd: _cumulative_product,
    ArgMax: _arg,
    ArgMin: _arg,
    Sort: _ordering,
    TopK: _ordering,
}
