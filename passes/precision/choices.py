"""What each layer may compute with: the options that `assign-precision` chooses from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from optc.ir.constant import Absent
from optc.ir.diagnostics import Loc
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Linear, Take
from optc.ir.targets.target import Arch, Target
from optc.passes.precision.layers import LAYERS, Names, candidates, refusal, weight_shape

GROUP = 32  # inputs that share a scale at four bits, where a layer computes in floats


class Choice(Enum):
    """What a layer's weight is stored in, and what it computes with."""

    FLOAT = "f32"
    HALF = "bf16"
    WEIGHTS8 = "8-bit weights"
    WEIGHTS4 = "4-bit weights"
    INT8 = "int8"
    INT8_4 = "int8 with 4-bit weights"

    @property
    def integers(self) -> bool:
        """Whether its activations are integers."""
        return self in (Choice.INT8, Choice.INT8_4)

    @property
    def weights(self) -> DType:
        """What the artifact holds of its weight."""
        return _STORED[self]

    @property
    def activations(self) -> DType:
        """What it reads; `INT8` stands for u8 as well."""
        return _READ.get(self, DType.F32)


_STORED = {
    Choice.FLOAT: DType.F32,
    Choice.HALF: DType.BF16,
    Choice.WEIGHTS8: DType.I8,
    Choice.WEIGHTS4: DType.I4,
    Choice.INT8: DType.I8,
    Choice.INT8_4: DType.I4,
}
_READ = {Choice.HALF: DType.BF16, Choice.INT8: DType.I8, Choice.INT8_4: DType.I8}


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Nodes of one graph that share a weight, and what they may become; the first is FLOAT."""

    graph: Graph
    nodes: tuple[Node, ...]
    name: str
    offers: tuple[Choice, ...]
    reason: str | None = None  # why integers cannot compute it

    @property
    def weight(self) -> Value:
        """The weight, or table."""
        return weight_of(self.nodes[0])

    @property
    def loc(self) -> Loc:
        """Where the model says so."""
        return self.nodes[0].loc

    def scales(self, choice: Choice) -> tuple[int, ...]:
        """The shape of the scales beside its weight, where it has any."""
        node, weight = self.nodes[0], self.weight
        channels = isinstance(node.op, LAYERS)
        if choice is Choice.WEIGHTS4 and weight.shape[1] % GROUP == 0:
            return (weight.shape[0], weight.shape[1] // GROUP)
        return weight_shape(node) if channels else (weight.shape[0], 1)


def weight_of(node: Node) -> Value:
    """What a node reads that is stored: the table of a Take, the weight of a layer."""
    return node.inputs[0 if isinstance(node.op, Take) else 1]


def layers_of(module: Module, target: Target, keep_float: tuple[str, ...]) -> Iterator[Layer]:
    """Every layer and table with a weight at hand that nobody has decided about, in order."""
    for graph in module.graphs:
        names, sharing = Names.of(graph), dict[Value, list[Node]]()
        for node in (*candidates(graph), *_tables(graph)):
            if isinstance(node.op, (*LAYERS, Take)) and _is_float(graph, weight_of(node)):
                sharing.setdefault(weight_of(node), []).append(node)
        for weight, nodes in sharing.items():
            kept = next((k for n in nodes if (k := names.matches(n, keep_float))), None)
            reason = None if kept is None else f"keep_float={kept}"
            offers: tuple[Choice, ...] = (Choice.FLOAT,)
            if reason is None:
                reason = next((r for n in nodes if (r := _refusal(graph, n))), None)
                offers = tuple(_offers(nodes, target, reason))
            is_layer = isinstance(nodes[0].op, LAYERS)
            name = names.name(nodes[0]) if is_layer else names.of_value[weight]
            yield Layer(graph, tuple(nodes), name.removesuffix(".weight"), offers, reason)


def refused(module: Module, layers: Collection[Layer]) -> Mapping[Node, str]:
    """Why what people call a layer is none of `layers`: attention, or weights made at run time."""
    known = {node for layer in layers for node in layer.nodes}
    return {
        node: reason
        for graph in module.graphs
        for node in candidates(graph)
        if node not in known and (reason := refusal(graph, node)) is not None
    }


def _tables(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        if isinstance(node.op, Take) and node.op.axis == 0 and node.inputs[0].type.rank == 2:
            yield node


def _is_float(graph: Graph, weight: Value) -> bool:
    item = graph.constants.get(weight)
    if item is None or isinstance(item.source, Absent) or item.splat is not None:
        return False
    return weight.type.dtype is DType.F32 and weight.type.elements > 0


def _refusal(graph: Graph, node: Node) -> str | None:
    return None if isinstance(node.op, Take) else refusal(graph, node)


def _offers(nodes: list[Node], target: Target, refused: str | None) -> Iterator[Choice]:
    """FLOAT first. Convolutions with small weights and float activations have no kernel."""
    yield Choice.FLOAT
    layers = [node for node in nodes if isinstance(node.op, LAYERS)]
    known = refused is None or len(layers) < len(nodes)
    if not known:
        return
    if layers == nodes and (target.arch is Arch.CUDA or "avx512_bf16" in target.features):
        yield Choice.HALF
    if all(isinstance(node.op, Linear | Take) for node in nodes):
        yield Choice.WEIGHTS8
        yield Choice.WEIGHTS4
    if layers == nodes:
        yield Choice.INT8
        yield Choice.INT8_4
