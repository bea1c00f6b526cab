"""Put channels last where convolutions run, and move the transposes to where they cancel.

Kernels want the channels of a pixel side by side. A value that a convolution makes is kept with
its channels last, and so is everything computed from it, until a node needs the order the model
was written in; only there is a transpose emitted, and only once for each value.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.builder import live_nodes
from optc.ir.graph import Graph, Node
from optc.ir.module import Module
from optc.ir.ops import Conv, ConvTranspose
from optc.ir.targets.target import Arch
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.layout.layout import Layout, Rule
from optc.passes.layout.rules import RULES


@dataclass(frozen=True)
class AssignLayout(Pass):
    """Run convolutions and what surrounds them with channels last."""

    name = "assign-layout"
    effect = Effect.ROUNDING  # sums over pixels run in another order

    def run(self, module: Module, ctx: PassContext) -> Module:
        """Rewrite the graphs that have convolutions with channels first."""
        if ctx.target.arch is Arch.CUDA:  # threads side by side read pixels side by side
            return module
        return module.with_graphs(tuple(_assign(graph) for graph in module.graphs))


def _assign(graph: Graph) -> Graph:
    if not any(_starts(node) for node in graph.nodes):
        return graph
    layout = Layout(graph)
    for node in graph.nodes:
        _add(node, layout)
    outputs = [layout.first(value) for value in graph.outputs]
    layout.builder.nodes = list(live_nodes(layout.builder.nodes, outputs))
    return layout.builder.build(outputs)


def _starts(node: Node) -> bool:
    return isinstance(node.op, Conv | ConvTranspose) and not node.op.channels_last


def _add(node: Node, layout: Layout) -> None:
    """Copy a node, with channels last where one of its inputs is or a convolution wants it."""
    layout.builder.loc = node.loc
    rule: Rule | None = RULES.get(type(node.op))
    concerned = _starts(node) or any(layout.is_last(value) for value in node.inputs)
    if rule is None or not concerned or not rule(node, layout):
        layout.copy(node)
