"""Value numbering: equal ops on equal inputs are computed once (Click 1995)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from optc.ir.constant import Absent, Constant, Splat
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.printer import literal
from optc.ir.structural import op_key
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.rewrite import remap

_SAMPLE = 64  # elements compared before a digest is worth its time


@dataclass(frozen=True)
class MergeEqual(Pass):
    """Compute equal things once: nodes with the same op and inputs, constants of equal content."""

    name = "merge-equal"
    effect = Effect.EXACT

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with every distinct value once."""
        return module.with_graphs(tuple(map(_merged, module.graphs)))


def _merged(graph: Graph) -> Graph:
    leader = dict(_equal_constants(graph.constants))
    first: dict[Hashable, Node] = {}
    nodes: list[Node] = []
    for old in graph.nodes:
        node = remap(old, lambda value: leader.get(value, value))
        equal = first.setdefault((op_key(node.op), node.inputs), node)
        if equal is node:
            nodes.append(node)
        else:
            leader.update(zip(node.outputs, equal.outputs, strict=True))
    if not leader:
        return graph
    outputs = tuple(leader.get(value, value) for value in graph.outputs)
    constants = {value: item for value, item in graph.constants.items() if value not in leader}
    return replace(graph, nodes=tuple(nodes), outputs=outputs, constants=constants)


def _equal_constants(constants: Mapping[Value, Constant]) -> Iterator[tuple[Value, Value]]:
    """(constant, the first one equal to it). Content is hashed only where cheap signs agree."""
    groups: dict[Hashable, list[Value]] = {}
    for value, item in constants.items():
        groups.setdefault(_sign(item), []).append(value)
    for group in groups.values():
        first: dict[Hashable, Value] = {}
        for value in group if len(group) > 1 else ():
            equal = first.setdefault(_content(constants[value]), value)
            if equal is not value:
                yield value, equal


def _sign(item: Constant) -> Hashable:
    """Differs only between constants that differ."""
    if isinstance(item.source, Splat | Absent):
        return item.type, _content(item)
    flat = item.array.reshape(-1)
    return item.type, np.ascontiguousarray(flat[:_SAMPLE]).tobytes()


def _content(item: Constant) -> Hashable:
    source = item.source
    return literal(source.value) if isinstance(source, Splat) else item.digest
