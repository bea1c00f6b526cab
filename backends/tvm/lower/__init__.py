"""How each op is said in TVM's tensor expressions, one module per family.

f16 and bf16 are computed in f32: a smooth op reads what its producer computed before rounding when
both end up in one kernel, so values are rounded where they are written to memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm import te

    from optc.ir.graph import Node


def lower_node(node: Node, tensors: Sequence[te.Tensor]) -> tuple[te.Tensor, ...]:
    """The node's outputs as tensor expressions over `tensors`, its inputs.

    Raises KeyError for an op that has no lowering.
    """
    # Late: families import from this package, and it must stand before they do.
    from optc.backends.tvm.lower.table import LOWER

    types = [value.type for value in node.inputs]
    return tuple(LOWER[type(node.op)](node.op, tensors, types))
