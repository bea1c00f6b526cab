"""How positions are coupled through ops that compute each element from those at one place."""

from __future__ import annotations

from collections.abc import Mapping

from optc.ir.graph import Node
from optc.ir.ops import ELEMENTWISE, Op
from optc.passes.prune.ties import Rule, Ties


def _pointwise(node: Node, ties: Ties) -> None:
    for value in node.inputs:
        ties.broadcast(value, node.output)


RULES: Mapping[type[Op], Rule] = dict.fromkeys(ELEMENTWISE, _pointwise)
