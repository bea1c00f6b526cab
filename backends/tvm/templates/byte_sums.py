"""Sums of bytes in i32, and what becomes of them: the mean behind the last image of a network.

The loops are those of the generic template, whose fold reads the bytes where they lie and keeps a
vector of sums; a task around one is a good kernel, which the generic template does not say of any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optc.backends.tvm.templates.dot import BYTES
from optc.backends.tvm.templates.generic import GenericPlan
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, NoKnobs, Plan, Problem
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node
from optc.ir.ops import ELEMENTWISE, QUANTIZATION, ReduceSum, Reshape, ew


@dataclass(frozen=True)
class ByteSums:
    """Template of sums of bytes over any axes, with elementwise ops behind."""

    name: str = "byte_sums"
    version: int = 1

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes a task around one `reduce_sum` that reads bytes alone."""
        body = problem.body
        anchors = [node for node in body.nodes if isinstance(node.op, ReduceSum)]
        if len(anchors) != 1 or anchors[0].output.type.dtype is not DType.I32:
            return Miss("the task has no single sum in i32")
        (anchor,) = anchors
        widening = body.producer.get(anchor.inputs[0])
        if widening is None or not _reads_bytes(body, widening):
            return Miss("what is summed are no bytes")
        behind = [node for node in body.nodes if node not in (anchor, widening)]
        if not all(isinstance(n.op, (*ELEMENTWISE, *QUANTIZATION, Reshape)) for n in behind):
            return Miss("the sums are moved")
        return ByteSumPlan(problem, f"{self.name}/{self.version}")


def _reads_bytes(body: Graph, node: Node) -> bool:
    read = node.inputs[0]
    return isinstance(node.op, ew.Cast) and read in body.inputs and read.type.dtype in BYTES


@dataclass(frozen=True)
class ByteSumPlan:
    """A fold and an elementwise loop."""

    problem: Problem
    template: str

    def candidates(self) -> Sequence[Knobs]:
        """There is one way."""
        return [NoKnobs()]

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """The generic template's loops."""
        return GenericPlan(self.problem).emit(symbol, knobs)
