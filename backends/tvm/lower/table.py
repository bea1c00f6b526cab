"""The lowering of every op, joined from its families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm import te

from optc.backends.tvm.lower import (
    contraction,
    elementwise,
    movement,
    normalization,
    ordering,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    segment,
)
from optc.backends.tvm.lower.element import Lowering, splat
from optc.ir.graph import Node, Value
from optc.ir.ops import Op, Task
from optc.ir.types import TensorType


def _task(op: Task, tensors: Sequence[te.Tensor], _: Sequence[TensorType]) -> Sequence[te.Tensor]:
    """The body's nodes one by one; its constants are single numbers."""
    values: dict[Value, te.Tensor] = dict(zip(op.body.inputs, tensors, strict=True))
    values |= {value: splat(item) for value, item in op.body.constants.items()}
    for node in op.body.nodes:
        results = lower_node(node, [values[v] for v in node.inputs])
        values.update(zip(node.outputs, results, strict=True))
    return [values[value] for value in op.body.outputs]


LOWER: Mapping[type[Op], Lowering] = {
    **elementwise.LOWER,
    **movement.LOWER,
    **reduction.LOWER,
    **ordering.LOWER,
    **contraction.LOWER,
    **pooling.LOWER,
    **normalization.LOWER,
    **quantization.LOWER,
    **resize.LOWER,
    **recurrent.LOWER,
    **segment.LOWER,
    Task: _task,
}


def lower_node(node: Node, tensors: Sequence[te.Tensor]) -> tuple[te.Tensor, ...]:
    """The node's outputs as tensor expressions over `tensors`, its inputs.

    Raises KeyError for an op that has no lowering.
    """
    types = [value.type for value in node.inputs]
    return tuple(LOWER[type(node.op)](node.op, tensors, types))
