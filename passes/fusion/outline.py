"""Outlining: a set of nodes as the body of a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import QUANTIZATION, Conv, ConvTranspose, Linear
from optc.passes.fusion.classify import ROLE, Role

_NAMED = 4  # nodes of a task that its name spells out


@dataclass(frozen=True, slots=True)
class Outlined:
    """A body, the outer values it reads, those it makes, and which inputs are constants."""

    body: Graph
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    constants: frozenset[int]


def outline(graph: Graph, nodes: Sequence[Node], results: Collection[Value]) -> Outlined:
    """The body that computes what `nodes` make and others read.

    Splat constants move inside; other constants become inputs, so that layers of one shape share
    a kernel, and so do scales and zeros, in which alone quantized layers differ. Weights are inputs
    whatever they are: kernels have them packed.
    `results` are values that are needed even if no node reads them.
    """
    inside = set(nodes)
    made = dict.fromkeys(value for node in nodes for value in node.outputs)
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value not in made)
    steps = {v for n in nodes if isinstance(n.op, QUANTIZATION) for v in n.inputs[1:]}
    weights = {n.inputs[1] for n in nodes if isinstance(n.op, Conv | ConvTranspose | Linear)}
    outside = steps | weights
    splats = {v: graph.constants[v] for v in read if v not in outside and _is_splat(graph, v)}
    inputs = tuple(value for value in read if value not in splats)
    outputs = tuple(
        value
        for node in nodes
        for value in node.outputs
        if value in results or not inside.issuperset(graph.users.get(value, ()))
    )
    # A value belongs to one graph, so that its uses can be counted there: the body's are new.
    fresh = {value: Value(value.type, value.hint) for value in (*inputs, *splats, *made)}
    body = Graph(
        _name(nodes),
        tuple(fresh[value] for value in inputs),
        tuple(_renamed(node, fresh) for node in nodes),
        tuple(fresh[value] for value in outputs),
        {fresh[value]: item for value, item in splats.items()},
    )
    constants = frozenset(i for i, value in enumerate(inputs) if value in graph.constants)
    return Outlined(body, inputs, outputs, constants)


def _renamed(node: Node, fresh: Mapping[Value, Value]) -> Node:
    inputs = tuple(fresh[value] for value in node.inputs)
    return Node(node.op, inputs, tuple(fresh[value] for value in node.outputs), node.loc)


def _is_splat(graph: Graph, value: Value) -> bool:
    constant = graph.constants.get(value)
    return constant is not None and constant.splat is not None


def _name(nodes: Sequence[Node]) -> str:
    """What a task does, for people: its anchor is always named, however long the chain."""
    seen = [node for node in nodes if node.op.name != "reshape"]
    rank = {node: ROLE[type(node.op)] is not Role.ANCHOR for node in seen}
    shown = set(sorted(seen, key=rank.__getitem__)[:_NAMED])
    name = "_".join(node.op.name for node in seen if node in shown)
    return name + (f"_and_{len(seen) - _NAMED}_more" if len(seen) > _NAMED else "")
