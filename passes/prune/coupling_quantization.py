"""How positions are coupled through quantization: a parameter per position goes with it."""

from __future__ import annotations

from collections.abc import Mapping

from optc.ir.graph import Node
from optc.ir.ops import QUANTIZATION, Op
from optc.passes.prune.ties import Rule, Ties

BLOCK = "positions of a block share a quantization parameter"


def _quantization(node: Node, ties: Ties) -> None:
    x, *parameters = node.inputs
    ties.same(x, node.output, range(x.type.rank))
    for parameter in parameters:
        for axis, entries in enumerate(parameter.shape):
            if entries == x.shape[axis]:
                ties.axis(parameter, axis, x, axis)
            elif entries > 1:
                ties.pin(x, (axis,), BLOCK)
                ties.pin(parameter, (axis,), BLOCK)


RULES: Mapping[type[Op], Rule] = dict.fromkeys(QUANTIZATION, _quantization)
