"""What a model holds: ops, parameters, multiply-adds, bytes, and the least time of every node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from optc.ir.constant import Absent, Constant, Splat
from optc.ir.cost import compute_dtype, cost
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module, Port
from optc.ir.names import value_names
from optc.ir.ops import Attention, Conv, ConvTranspose, Gru, Linear, Lstm, MatMul, Reshape, Task
from optc.ir.ops.quantization import STORED
from optc.ir.store import all_constants
from optc.passes.memory.joins import aliases, origin
from optc.roofline import Limits, Work


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node: what it computes and moves, and the least time for it (0: not known)."""

    name: str
    op: str
    result: str
    macs: int
    flops: int
    bytes: int
    seconds: float
    bound: str
    place: str

    @property
    def intensity(self) -> float:
        """Operations per byte moved."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class ModuleFacts:
    """A whole module. `peak_bytes` is what lives at once when nodes run in order, weights apart."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[Port, ...]
    nodes: tuple[NodeFacts, ...]
    parameters: int
    weight_bytes: int
    peak_bytes: int
    peak_node: str

    @cached_property
    def ops(self) -> Mapping[str, int]:
        """How many nodes of each op, the most frequent first."""
        return dict(Counter(node.op for node in self.nodes).most_common())

    @property
    def macs(self) -> int:
        """Multiply-adds of the contractions."""
        return sum(node.macs for node in self.nodes)

    @property
    def flops(self) -> int:
        """All operations; a multiply-add is two."""
        return sum(node.flops for node in self.nodes)

    @property
    def bytes(self) -> int:
        """Bytes moved by nodes that keep nothing between them."""
        return sum(node.bytes for node in self.nodes)

    @property
    def seconds(self) -> float:
        """The least time for all nodes, one after the other; 0 when no limits were given."""
        return sum(node.seconds for node in self.nodes)


def inspect_module(module: Module, limits: Limits | None = None) -> ModuleFacts:
    """Facts of a module; with `limits`, the least time of every node on that machine."""
    runs = Counter(run.graph for run in module.flow.runs)  # a graph that runs twice counts twice
    known = {graph.name: tuple(_nodes(graph, limits)) for graph in module.graphs}
    nodes = tuple(facts for name, found in known.items() for facts in found * runs[name])
    parameters, nbytes = _weights(module)
    peaks = [_peak(graph) for graph in module.graphs] or [(0, "")]
    states = tuple(Port(state.name, state.type) for state in module.states)
    return ModuleFacts(
        module.name, module.inputs, module.outputs, states, nodes, parameters, nbytes, *max(peaks)
    )


def macs(node: Node) -> int:
    """Multiply-adds of a contraction, the bias apart; 0 for every other op."""
    result = node.outputs[0].type.elements if node.outputs else 0
    shapes = [value.type.shape for value in node.inputs]
    match node.op:
        case Linear() | MatMul():
            return result * shapes[0][-1]
        case Conv():
            return result * math.prod(shapes[1][1:])
        case ConvTranspose():
            return math.prod(shapes[0]) * math.prod(shapes[1][1:])
        case Attention(causal=causal):
            rows, columns = shapes[0][-2], shapes[1][-2]
            seen = sum(min(r + 1, columns) for r in range(rows)) if causal else rows * columns
            return math.prod(shapes[0][:-2]) * seen * (shapes[0][-1] + shapes[2][-1])
        case Lstm() | Gru():
            gates = 4 if isinstance(node.op, Lstm) else 3
            (steps, batch, width), hidden = shapes[0], shapes[1][1]
            return steps * batch * gates * hidden * (width + hidden)
        case Task(body=body):
            return sum(map(macs, body.nodes))
    return 0


def label_of(node: Node) -> str:
    """The op's name; a task's is what it does, the names of its ops joined."""
    return node.op.body.name if isinstance(node.op, Task) else node.op.name


def _nodes(graph: Graph, limits: Limits | None) -> Iterator[NodeFacts]:
    names = value_names(graph)
    for node in graph.nodes:
        price = cost(node)
        work = Work(price.flops, price.bytes_read, price.bytes_written, 0, compute_dtype(node))
        least = (limits or Limits.unknown(1)).least(work)
        yield NodeFacts(
            ", ".join(f"%{names[value]}" for value in node.outputs),
            label_of(node),
            ", ".join(str(value.type) for value in node.outputs),
            macs(node),
            price.flops,
            price.bytes,
            least.seconds,
            least.bound.value,
            str(node.loc),
        )


def _weights(module: Module) -> tuple[int, int]:
    """Elements and bytes of the constants; what several graphs or nodes share counts once."""
    distinct: dict[object, Constant] = {}
    for item in all_constants(module):
        match item.source:
            case Splat():
                continue
            case Absent(digest):
                distinct[digest] = item
            case source:
                distinct[id(source)] = item
    weights = [item for item in distinct.values() if _is_weight(item.type.dtype)]
    return sum(item.type.elements for item in weights), sum(
        item.type.nbytes for item in distinct.values()
    )


def _is_weight(dtype: DType) -> bool:
    """Whether numbers of a dtype are learnt: longer integers are indices and shapes."""
    return dtype.is_float or dtype in STORED


def _peak(graph: Graph) -> tuple[int, str]:
    """The most bytes alive at once, and the node that runs then; reshapes take none."""
    root = partial(origin, alias=aliases(graph))
    kept = {root(value) for value in graph.outputs}
    last = {root(value): index for index, node in enumerate(graph.nodes) for value in node.inputs}
    dying: dict[int, list[Value]] = {}
    for value, index in last.items():
        if value not in kept and value not in graph.constants:
            dying.setdefault(index, []).append(value)
    live = sum(value.type.nbytes for value in graph.inputs)
    peak = (live, "inputs")
    for index, node in enumerate(graph.nodes):
        if not isinstance(node.op, Reshape):
            live += sum(value.type.nbytes for value in node.outputs)
        peak = max(peak, (live, label_of(node)), key=lambda pair: pair[0])
        live -= sum(value.type.nbytes for value in dying.get(index, ()))
        unread = [v for v in node.outputs if root(v) not in last and root(v) not in kept]
        live -= 0 if isinstance(node.op, Reshape) else sum(value.type.nbytes for value in unread)
    return peak
