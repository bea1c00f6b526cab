"""Graphs of bytes around a pool, a mean or a join, and the tasks that compilations make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from optc.driver import lower_module
from optc.ir.builder import Builder
from optc.ir.graph import Graph, Value
from optc.ir.module import module_of
from optc.ir.ops import Dequantize, Op, Quantize
from optc.ir.ops import Task as TaskOp
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.bytes import F32, I8, U8, Task, numbers
from tests.backends.tvm.templates.agreement import Case


@dataclass(frozen=True)
class Bytes(Case):
    """A case whose numbers provoke."""

    def inputs(self, seed: int) -> list[Tensor]:
        """Bytes near the ends of their range in every other case."""
        extreme = seed % 2 == 1
        return [
            numbers(value.type, 10 * seed + i, extreme=extreme)
            for i, value in enumerate(self.body.inputs)
        ]


def between(ops: Sequence[Op], *inputs: TensorType, zero: int = 3) -> Graph:
    """Ops over dequantized inputs, each with a scale of its own, quantized again."""
    builder = Builder("bytes")
    kind = inputs[0].dtype
    values: list[Value] = []
    for number, type in enumerate(inputs):
        scale = builder.splat(0.5 + number, TensorType((), F32))
        held = builder.splat(zero + number, TensorType((), kind))
        values.append(builder.emit(Dequantize(), builder.input(type), scale, held))
    value = builder.emit(ops[0], *values)
    for op in ops[1:]:
        value = builder.emit(op, value)
    scale = builder.splat(0.75, TensorType((), F32))
    return builder.build(
        [builder.emit(Quantize(kind), value, scale, builder.splat(zero, TensorType((), kind)))]
    )


def tasks(graph: Graph, target: str) -> list[Task]:
    """The tasks of a graph as a compilation makes them; nothing but bytes lies between them."""
    lowered = lower_module(module_of(graph), find_target(target)).graphs[0]
    for node in lowered.nodes:
        assert all(value.type.dtype in (U8, I8) for value in node.outputs), node.op.name
    return [
        Task(node.op.body, frozenset(i for i, v in enumerate(node.inputs) if v in constants))
        for constants in (lowered.constants,)
        for node in lowered.nodes
        if isinstance(node.op, TaskOp)
    ]
