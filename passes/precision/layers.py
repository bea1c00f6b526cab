"""Layers that integers can compute: where their channels are, what they are called, why not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from optc.ir.constant import Absent
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.names import value_names
from optc.ir.ops import Attention, Conv, ConvTranspose, Dequantize, Gru, Linear, Lstm, MatMul
from optc.ir.types import TensorType

LAYERS = (Conv, ConvTranspose, Linear)
_FLOATING: Mapping[type, str] = {
    MatMul: "both of its factors are computed at run time",
    Attention: "its softmax is computed in floats",
    Lstm: "its state would be rounded in every step",
    Gru: "its state would be rounded in every step",
}


def weight_shape(node: Node) -> tuple[int, ...]:
    """The shape of a parameter with one entry per output channel, beside the layer's weight."""
    weight = node.inputs[1].shape
    if isinstance(node.op, ConvTranspose):
        return (node.op.groups, weight[1], *[1] * (len(weight) - 2))
    return (weight[0], *[1] * (len(weight) - 1))


def output_shape(node: Node) -> tuple[int, ...]:
    """The shape of a parameter with one entry per channel, beside the layer's output."""
    y = node.output
    axis = y.type.rank - 1
    if isinstance(node.op, Conv | ConvTranspose) and not node.op.channels_last:
        axis = 1
    return tuple(extent if place == axis else 1 for place, extent in enumerate(y.shape))


def terms(node: Node) -> int:
    """How many products each element of the layer's output sums up, at most."""
    weight = node.inputs[1]
    outputs = 1
    for extent in weight_shape(node):
        outputs *= extent
    return weight.type.elements // max(1, outputs)


@dataclass(frozen=True, slots=True)
class Names:
    """How people name layers: the module's path in the model, its weight, or the value it gives."""

    of_value: Mapping[Value, str]

    @staticmethod
    def of(graph: Graph) -> Names:
        """The names of a graph's layers."""
        return Names(value_names(graph))

    def name(self, node: Node) -> str:
        """What remarks call a layer: its weight's name without `.weight`."""
        if len(node.inputs) > 1 and isinstance(node.op, LAYERS):
            return self.of_value[node.inputs[1]].removesuffix(".weight")
        return self.of_value[node.outputs[0]]

    def matches(self, node: Node, wanted: Collection[str]) -> str | None:
        """The first of `wanted` that names the layer, or a module that it lies in."""
        own = (self.name(node), self.of_value[node.outputs[0]], node.loc.scope)
        for text in wanted:
            if any(name == text or name.startswith(f"{text}.") for name in own if name):
                return text
        return None


def refusal(graph: Graph, node: Node) -> str | None:
    """Why integers cannot compute a layer; None when they can."""
    kind = type(node.op)
    if kind in _FLOATING:
        return _FLOATING[kind]
    x, weight, *_ = node.inputs
    if x.type.dtype is not DType.F32:
        return f"it computes in {x.type.dtype}"
    items = [graph.constants.get(value) for value in node.inputs[1:]]
    if any(item is None or isinstance(item.source, Absent) for item in items):
        return "its weights are not constants at hand"
    if not node.output.type.elements or not weight.type.elements:
        return "it computes nothing"
    if terms(node) * 255 * 127 >= 1 << 30:
        return f"sums of {terms(node)} products may not fit i32"
    if node in deciding(graph):
        return "its scores decide whether a call leaves early"
    return None


def deciding(graph: Graph) -> set[Node]:
    """Layers that a condition hangs on by no other layer: the head of an exit.

    They are small, fitted to features of very unlike sizes, and a score that rounding moves sends
    a call the wrong way.
    """
    condition = TensorType((), DType.BOOL)
    queue = [value for value in graph.outputs if value.type == condition]
    seen, found = set(queue), set()
    while queue:
        node = graph.producer.get(queue.pop())
        if node is not None and isinstance(node.op, LAYERS):
            found.add(node)
        elif node is not None:
            queue += set(node.inputs) - seen
            seen.update(node.inputs)
    return found


def candidates(graph: Graph) -> Iterator[Node]:
    """All that a person would call a layer with products of floats, in order.

    A layer whose weights are dequantized is none: somebody has decided already.
    """
    for node in graph.nodes:
        floats = node.inputs and node.inputs[0].type.dtype.is_float
        if floats and isinstance(node.op, LAYERS):
            maker = graph.producer.get(node.inputs[1])
            if maker is None or not isinstance(maker.op, Dequantize):
                yield node
        elif floats and type(node.op) in _FLOATING:
            yield node
