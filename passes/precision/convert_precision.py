"""Half precision: f32 becomes bf16 or f16 inside the model, and stays f32 at its ports.

Kernels compute halves in f32 and round what they write, so sums and norms keep their digits; what
halves is memory: weights, and what lies between kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from optc.ir.builder import Builder, live_nodes
from optc.ir.constant import Absent, Splat, from_floats, splat, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import QUANTIZATION, Dequantize, Quantize, ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.precision.layers import Names


class Half(Enum):
    """The halves."""

    BF16 = "bf16"  # the range of f32, eight bits of precision
    F16 = "f16"  # eleven bits, numbers up to 65504

    @property
    def dtype(self) -> DType:
        """The IR's element type."""
        return DType(self.value)


@dataclass(frozen=True)
class ConvertPrecision(Pass):
    """Compute in bf16 or f16 what the model computes in f32; inputs, outputs, states stay f32.

    `keep_float` names layers, or modules of the model, that stay in f32.
    """

    name = "convert-precision"
    effect = Effect.LOSSY
    dtype: Half = Half.BF16
    keep_float: tuple[str, ...] = ()

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module in halves."""
        return module.with_graphs(
            tuple(_Conversion(graph, self).result() for graph in module.graphs)
        )


class _Conversion:
    def __init__(self, graph: Graph, options: ConvertPrecision) -> None:
        self.graph, self.options = graph, options
        self.dtype = options.dtype.dtype
        self.names = Names.of(graph)
        self.builder = Builder(graph.name)
        self.builder.inputs, self.builder.constants = list(graph.inputs), dict(graph.constants)
        self.small: dict[Value, Value] = {}  # the half of an f32 of the old graph
        self.wide: dict[Value, Value] = {}  # what stands for a value of the old graph, in its type

    def result(self) -> Graph:
        if not any(self.is_converted(node) for node in self.graph.nodes):
            return self.graph
        for node in self.graph.nodes:
            self.builder.loc = node.loc
            self.add(node)
        outputs = [self.as_wide(value) for value in self.graph.outputs]
        self.builder.nodes = list(live_nodes(self.builder.nodes, outputs))
        return self.builder.build(outputs)

    def is_converted(self, node: Node) -> bool:
        """Whether the node computes f32 numbers, and nobody wants it to go on doing so."""
        if not any(value.type.dtype is DType.F32 for value in (*node.outputs, *node.inputs[:1])):
            return False
        if isinstance(node.op, ew.Cast) and self.dtype in (
            node.op.dtype,
            node.inputs[0].type.dtype,
        ):
            return False  # the way in or out, which an earlier run put there
        if isinstance(node.op, Quantize) and node.inputs[0] not in self.small:
            return False  # a float of the caller's is rounded once
        known = all(
            not isinstance(self.graph.constants[v].source, Absent)
            for v in node.inputs
            if v in self.graph.constants
        )
        return known and self.names.matches(node, self.options.keep_float) is None

    def add(self, node: Node) -> None:
        if not self.is_converted(node):
            inputs = [self.as_wide(value) for value in node.inputs]
            same = all(new is old for new, old in zip(inputs, node.inputs, strict=True))
            results = node.outputs
            if same:
                self.builder.append(node)
            else:
                hint = node.outputs[0].hint
                results = self.builder.emit_all(node.op, *inputs, hint=hint)
            self.wide.update(zip(node.outputs, results, strict=True))
            return
        # Scales are f32 whatever they scale.
        last = 1 if isinstance(node.op, QUANTIZATION) else len(node.inputs)
        inputs = [
            self.as_small(value) if place < last else self.as_wide(value)
            for place, value in enumerate(node.inputs)
        ]
        op = node.op
        if isinstance(op, ew.Cast | Dequantize) and op.dtype is DType.F32:
            op = replace(op, dtype=self.dtype)
        results = self.builder.emit_all(op, *inputs, hint=node.outputs[0].hint)
        for old, new in zip(node.outputs, results, strict=True):
            (self.small if old.type.dtype is DType.F32 else self.wide)[old] = new

    def as_small(self, value: Value) -> Value:
        """A value as a node in halves reads it."""
        if value.type.dtype is not DType.F32:
            return self.as_wide(value)
        if value not in self.small:
            item = self.graph.constants.get(value)
            if item is None:
                wide = self.wide.get(value, value)
                self.small[value] = self.builder.emit(ew.Cast(self.dtype), wide, hint=value.hint)
            elif isinstance(item.source, Splat):
                small = splat(item.source.value, item.type.with_dtype(self.dtype))
                self.small[value] = self.builder.constant(small, value.hint)
            else:
                small = from_floats(to_floats(item), self.dtype)
                self.small[value] = self.builder.constant(small, value.hint)
        return self.small[value]

    def as_wide(self, value: Value) -> Value:
        """A value in the type that it had."""
        if value in self.small and value not in self.wide and value not in self.graph.constants:
            if value in self.graph.inputs:
                return value
            half = self.small[value]
            self.wide[value] = self.builder.emit(ew.Cast(DType.F32), half, hint=value.hint)
        return self.wide.get(value, value)
