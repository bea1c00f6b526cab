"""Puts quantize and dequantize where a placement says, and integers in place of weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from optc.ir import ops
from optc.ir.builder import Builder, live_nodes
from optc.ir.constant import Constant, from_floats, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Take, ew
from optc.ir.types import TensorType
from optc.passes.precision.affine import Affine
from optc.passes.precision.placement import Placement, moves


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A layer's weight as integers, what they are multiplied by, and another bias, a float."""

    values: Constant
    scale: Constant
    bias: Constant | None


def inserted(
    placement: Placement,
    affines: Mapping[Value, Affine],
    weights: Mapping[Node, Weights],
    halves: Collection[Node] = (),
) -> tuple[Graph, Mapping[Value, Value]]:
    """The graph with each point quantized and the weights of some nodes as integers.

    Movements are done on both sides, floats and integers, where both are read. Nodes with weights
    that the placement does not name compute in floats; a Take picks rows of integers. The layers
    `halves` compute in bf16. Also returns what stands for values of the old graph.
    """
    insertion = _Insertion(placement, affines, weights, halves)
    return insertion.result(), insertion.plain


class _Insertion:
    def __init__(
        self,
        placement: Placement,
        affines: Mapping[Value, Affine],
        weights: Mapping[Node, Weights],
        halves: Collection[Node],
    ) -> None:
        self.placement, self.affines, self.weights = placement, affines, weights
        self.halves = frozenset(halves)
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
        if node in self.halves or (node in self.weights and isinstance(node.op, Take)):
            add = self.half if node in self.halves else self.picked
            self.plain[node.output] = add(node, inputs)
            return
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
        bias = self.weights[node].bias
        weight = self.builder.emit(ops.Dequantize(), *self.parts(node, 1), hint=node.inputs[1].hint)
        if bias is None:
            return [weight, *node.inputs[2:]]
        return [weight, self.builder.constant(bias, node.inputs[2].hint)]

    def parts(self, node: Node, place: int) -> tuple[Value, Value, Value]:
        """Integers, scale and zero of a node's weight."""
        found, hint = self.weights[node], node.inputs[place].hint
        zero = TensorType((), found.values.type.dtype)
        return (
            self.builder.constant(found.values, hint),
            self.builder.constant(found.scale, f"{hint}_scale"),
            self.builder.splat(0, zero, f"{hint}_zero"),
        )

    def picked(self, node: Node, inputs: list[Value]) -> Value:
        """Rows of a table of integers, and of their scales."""
        values, scale, zero = self.parts(node, 0)
        hint = node.output.hint
        rows = [self.builder.emit(node.op, part, inputs[1], hint=hint) for part in (values, scale)]
        return self.builder.emit(ops.Dequantize(), *rows, zero, hint=hint)

    def half(self, node: Node, inputs: list[Value]) -> Value:
        """A layer that computes in bf16."""
        x = self.builder.emit(ew.Cast(DType.BF16), inputs[0], hint=inputs[0].hint)
        fixed = [
            self.builder.constant(
                from_floats(to_floats(self.placement.graph.constants[value]), DType.BF16),
                value.hint,
            )
            for value in node.inputs[1:]
        ]
        result = self.builder.emit(node.op, x, *fixed, hint=node.output.hint)
        return self.builder.emit(ew.Cast(DType.F32), result, hint=node.output.hint)

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
