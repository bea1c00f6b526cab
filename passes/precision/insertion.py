"""Puts quantize and dequantize where a placement says, and integers in place of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optc.ir import ops
from optc.ir.builder import Builder, live_nodes
from optc.ir.constant import Constant
from optc.ir.graph import Graph, Node, Value
from optc.ir.types import TensorType
from optc.passes.precision.affine import Affine
from optc.passes.precision.placement import Placement, moves


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A layer's weight as integers, what they are multiplied by, and its bias, a float."""

    values: Constant
    scale: Constant
    bias: Constant | None


def inserted(
    placement: Placement, affines: Mapping[Value, Affine], weights: Mapping[Node, Weights]
) -> Graph:
    """The graph with each point quantized and each layer's weights as integers.

    Movements are done on both sides, floats and integers, where both are read.
    """
    return _Insertion(placement, affines, weights).result()


class _Insertion:
    def __init__(
        self, placement: Placement, affines: Mapping[Value, Affine], weights: Mapping[Node, Weights]
    ) -> None:
        self.placement, self.affines, self.weights = placement, affines, weights
        graph = placement.graph
        self.builder = Builder(graph.name)
        self.builder.inputs = list(graph.inputs)
        self.builder.constants = dict(graph.constants)
        self.plain: dict[Value, Value] = {}  # in place of a value, for who goes on in floats
        self.small: dict[Value, Value] = {}  # the same from integers

    def result(self) -> Graph:
        graph = self.placement.graph
        for value in (*graph.inputs, *graph.constants):
            self.quantize(value)
        for node in graph.nodes:
            self.builder.loc = node.loc
            self.add(node)
            for value in node.outputs:
                self.quantize(value)
        outputs = [self.plain.get(value, value) for value in graph.outputs]
        self.builder.nodes = list(live_nodes(self.builder.nodes, outputs))
        return self.builder.build(outputs)

    def add(self, node: Node) -> None:
        inputs = [self.operand(node, value) for value in node.inputs]
        if node in self.weights:
            inputs[1:] = self.constants(node)
        if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
            self.builder.append(node)
        else:
            hint = node.outputs[0].hint
            results = self.builder.emit_all(node.op, *inputs, hint=hint)
            self.plain.update(zip(node.outputs, results, strict=True))
        if moves(node.op) and self.small.keys() >= set(node.inputs):
            operands = [self.small[value] for value in node.inputs]
            self.small[node.output] = self.builder.emit(node.op, *operands, hint=node.output.hint)

    def operand(self, node: Node, value: Value) -> Value:
        if value in self.small and self.placement.reads_integers(node, value):
            return self.small[value]
        return self.plain.get(value, value)

    def constants(self, node: Node) -> list[Value]:
        """A layer's weight, dequantized, and its bias."""
        found, hint = self.weights[node], node.inputs[1].hint
        values = self.builder.constant(found.values, hint)
        scale = self.builder.constant(found.scale, f"{hint}_scale")
        zero = self.builder.splat(0, TensorType((), found.values.type.dtype), f"{hint}_zero")
        weight = self.builder.emit(ops.Dequantize(), values, scale, zero, hint=hint)
        if found.bias is None:
            return [weight]
        return [weight, self.builder.constant(found.bias, node.inputs[2].hint)]

    def quantize(self, value: Value) -> None:
        found = self.affines.get(value)
        if found is None:
            return
        scale, zero = (
            self.builder.constant(item, f"{value.hint}_{name}")
            for item, name in zip(found.constants(), ("scale", "zero"), strict=True)
        )
        x = self.plain.get(value, value)
        q = self.builder.emit(ops.Quantize(found.dtype), x, scale, zero, hint=f"{value.hint}_q")
        self.small[value] = self.builder.emit(ops.Dequantize(), q, scale, zero, hint=value.hint)
