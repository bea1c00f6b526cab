"""Constant folding: what depends on constants alone is computed at compile time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from optc.ir.builder import live_nodes
from optc.ir.constant import Absent, Constant, splat
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import (
    ELEMENTWISE,
    Attention,
    Dequantize,
    EmbeddingBag,
    Expand,
    Flip,
    Reshape,
    Slice,
    Task,
    Transpose,
)  # fmt: skip
from optc.ir.types import TensorType
from optc.passes.base import Effect, Evaluate, Pass, PassContext
from optc.passes.rewrite import remap

_CODE = "N0301"
_MOVES = (Expand, Flip, Reshape, Slice, Transpose)


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace what depends on constants alone by its value.

    A value that is larger than the constants it makes superfluous is stored only if it needs no
    more than `growth` bytes above them; otherwise it is computed at run time as before. Values
    whose elements are all equal take no room and are always folded, and so are those that have no
    elements, so that no kernel meets an empty tensor. Dequantized constants stay as small as they
    are: kernels widen them.
    """

    name = "fold-constants"
    effect = Effect.EXACT
    growth: int = 1 << 20  # bytes that one folded value may add to the model

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with constant subgraphs evaluated."""
        return module.with_graphs(tuple(_fold(g, self.growth, ctx) for g in module.graphs))


def _fold(graph: Graph, growth: int, ctx: PassContext) -> Graph:
    graph = _fold_empty(graph)
    graph = _fold_splats(graph, ctx.evaluate)
    if ctx.evaluate is None:
        return graph
    wanted = _Region(graph, growth, ctx).wanted()
    if not wanted:
        return graph
    cone = live_nodes(graph.nodes, wanted)
    used = {value for node in cone for value in node.inputs}
    constants = {value: item for value, item in graph.constants.items() if value in used}
    results = ctx.evaluate(Graph(graph.name, (), cone, tuple(wanted), constants), ())
    return _with_constants(graph, dict(zip(wanted, results, strict=True)))


class _Region:
    """The nodes that depend on constants alone, and which of their values to store."""

    def __init__(self, graph: Graph, growth: int, ctx: PassContext) -> None:
        self.graph = graph
        self.growth = growth
        self.ctx = ctx
        self.constant = {v for v, c in graph.constants.items() if not isinstance(c.source, Absent)}
        self.nodes: dict[Node, None] = {}
        for node in graph.nodes:
            # What was quantized is stored small on purpose.
            kept = isinstance(node.op, Dequantize)
            if node.inputs and not kept and self.constant.issuperset(node.inputs):
                self.nodes[node] = None
                self.constant.update(node.outputs)

    def wanted(self) -> list[Value]:
        """The values to store: those the rest reads, or what they are made from if too large."""
        outside = (node for node in self.graph.nodes if node not in self.nodes)
        read = [value for node in outside for value in node.inputs]
        found: dict[Value, None] = {}
        waiting = [v for v in (*read, *self.graph.outputs) if v in self.constant]
        seen: set[Value] = set()
        while waiting:
            value = waiting.pop()
            node = self.graph.producer.get(value)
            if node is None or value in seen:
                continue
            seen.add(value)
            if self.pays(value):
                found[value] = None
                continue
            self.refuse(node, value)
            waiting += node.inputs
        return [value for node in self.nodes for value in node.outputs if value in found]

    def pays(self, value: Value) -> bool:
        """Whether storing `value` keeps the model within the growth allowed."""
        cone = live_nodes(tuple(self.nodes), (value,))
        read = {v for node in cone for v in node.inputs if v in self.graph.constants}
        inside = set(cone)
        freed = (v for v in read if inside.issuperset(self.graph.users[v]))
        return value.type.nbytes <= self.growth + sum(
            _stored(self.graph.constants[v]) for v in freed
        )

    def refuse(self, node: Node, value: Value) -> None:
        size = value.type.nbytes
        message = f"{node.op.name} not folded: {value.type} takes {size} bytes"
        self.ctx.remark(_CODE, f"{message}; see fold-constants{{growth={size}}}", node.loc)


def _stored(item: Constant) -> int:
    return 0 if item.splat is not None else item.type.nbytes


def _fold_empty(graph: Graph) -> Graph:
    """Values without elements, inputs of the graph among them, and what is looked up in those."""
    values = (*graph.inputs, *(value for node in graph.nodes for value in node.outputs))
    read = {value for node in graph.nodes for value in node.inputs}.union(graph.outputs)
    known = {value for node in graph.nodes if _looks_up_nothing(node) for value in node.outputs}
    found = {
        value: splat(0, value.type)
        for value in values
        if value in read and (not value.type.elements or value in known)
    }
    return _with_constants(graph, found) if found else graph


def _looks_up_nothing(node: Node) -> bool:
    """Attention without keys and bags without members give 0, whatever else they are given."""
    return isinstance(node.op, Attention | EmbeddingBag) and not node.inputs[1].type.elements


def _fold_splats(graph: Graph, evaluate: Evaluate | None) -> Graph:
    """Movement and elementwise ops on constants whose elements are all equal."""
    known = dict(graph.constants)
    found: dict[Value, Constant] = {}
    for node in graph.nodes:
        items = [known.get(value) for value in node.inputs]
        if len(node.outputs) != 1 or not node.inputs or isinstance(node.op, Task):
            continue
        splats = [item for item in items if item is not None and item.splat is not None]
        if len(splats) < len(items):
            continue
        result = _splat(node, splats, evaluate)
        if result is not None:
            found[node.output] = known[node.output] = result
    return _with_constants(graph, found) if found else graph


def _splat(node: Node, items: list[Constant], evaluate: Evaluate | None) -> Constant | None:
    number, type = items[0].splat, node.output.type
    if isinstance(node.op, _MOVES) and number is not None:
        return splat(number, type)
    if evaluate is None or not isinstance(node.op, ELEMENTWISE):
        return None
    inputs = {Value(TensorType((), item.type.dtype)): item for item in items}
    constants = {
        v: splat(item.splat, v.type) for v, item in inputs.items() if item.splat is not None
    }
    output = Value(TensorType((), type.dtype))
    scalar = Node(node.op, tuple(inputs), (output,))
    (result,) = evaluate(Graph("splat", (), (scalar,), (output,), constants), ())
    return None if result.splat is None else splat(result.splat, type)


def _with_constants(graph: Graph, found: Mapping[Value, Constant]) -> Graph:
    """The graph with computed values replaced by constants of the same name."""
    fresh = {value: Value(value.type, value.hint) for value in found}
    outputs = tuple(fresh.get(value, value) for value in graph.outputs)
    moved = tuple(remap(node, lambda value: fresh.get(value, value)) for node in graph.nodes)
    nodes = live_nodes(moved, outputs)
    used = {value for node in nodes for value in node.inputs} | set(outputs)
    constants = {**graph.constants, **{fresh[value]: item for value, item in found.items()}}
    kept = {value: item for value, item in constants.items() if value in used}
    return replace(graph, nodes=nodes, outputs=outputs, constants=kept)
