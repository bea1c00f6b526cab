"""Rewriting: walk a graph in order, offer each node to the rules of its op, rebuild what changed.

A rule answers with the values that replace the node's outputs, with None (not my pattern), or
with a Miss (mine, but no), which becomes a remark. Rules look upwards only, through producers
that have been rewritten already, so one walk cascades.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from optc.ir.builder import Builder, live_nodes
from optc.ir.constant import Constant
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops.base import Op
from optc.passes.base import PassContext

ROUNDS = 16  # walks at most; each must change something, and rules make graphs smaller or simpler


@dataclass(frozen=True, slots=True)
class Miss:
    """A pattern that was recognised and refused, and why."""

    reason: str


Answer = Value | tuple[Value, ...] | Miss | None


class Site:
    """What a rule may see and do at the node that it is offered."""

    def __init__(self, graph: Graph, ctx: PassContext) -> None:
        self.ctx = ctx
        self.builder = Builder(graph.name)
        self.builder.inputs = list(graph.inputs)
        self.builder.constants = dict(graph.constants)
        self.replaced: dict[Value, Value] = {}
        self.uses_of = {value: len(nodes) for value, nodes in graph.users.items()}
        for value in graph.outputs:
            self.uses_of[value] = self.uses_of.get(value, 0) + 1
        self.hint = ""
        self.offered: Node | None = None

    def emit(self, op: Op, *inputs: Value, hint: str = "") -> Value:
        """Add a node with one output; it is named after the value that is being replaced."""
        return self.builder.emit(op, *inputs, hint=hint or self.hint)

    def emit_all(self, op: Op, *inputs: Value) -> tuple[Value, ...]:
        """Add a node and return all its outputs."""
        return self.builder.emit_all(op, *inputs, hint=self.hint)

    def constant(self, item: Constant, hint: str = "c") -> Value:
        """Add a constant."""
        return self.builder.constant(item, hint)

    def producer(self, value: Value) -> Node | None:
        """The node that computes `value`, the offered one included; None for inputs, constants."""
        if self.offered is not None and value in self.offered.outputs:
            return self.offered
        return self.builder.producer(value)

    def constant_of(self, value: Value) -> Constant | None:
        """The constant behind `value`, or None."""
        return self.builder.constant_of(value)

    def uses(self, value: Value) -> int:
        """How often the original graph reads the value that `value` stands for."""
        return self.uses_of.get(value, 1)

    def resolve(self, value: Value) -> Value:
        """The value that stands for `value` in the new graph."""
        return self.replaced.get(value, value)

    def replace(self, old: Value, new: Value) -> None:
        """Let `new` stand for `old` from here on."""
        if new is old:
            return
        self.replaced[old] = new
        self.uses_of[new] = self.uses_of.get(new, 0) + self.uses_of.get(old, 0)


Rule = Callable[[Node, Site], Answer]
Rules = Mapping[type[Op], Sequence[Rule]]
Refusal = tuple[Node, Miss]


def rewrite(module: Module, rules: Rules, ctx: PassContext, *, code: str) -> Module:
    """Apply rules to every graph until nothing changes; refusals become remarks under `code`."""
    return module.with_graphs(
        tuple(rewrite_graph(graph, rules, ctx, code=code) for graph in module.graphs)
    )


def rewrite_graph(graph: Graph, rules: Rules, ctx: PassContext, *, code: str) -> Graph:
    """`rewrite` for one graph; the same object when no rule fired.

    What is refused in one walk may be part of what the next one takes: refusals count only where
    they are final, in the last walk or at a node that another rule replaced.
    """
    refused: list[Refusal] = []
    for _ in range(ROUNDS):
        refused = []
        result = _walk(graph, rules, ctx, code, refused)
        if result is graph:
            break
        graph = result
    _remark(refused, ctx, code)
    return graph


def _walk(graph: Graph, rules: Rules, ctx: PassContext, code: str, refused: list[Refusal]) -> Graph:
    site = Site(graph, ctx)
    changed = False
    for old in graph.nodes:
        node = remap(old, site.resolve) if site.replaced else old
        offered = rules.get(type(node.op))
        answer, misses = _offer(node, site, offered) if offered else (None, [])
        if answer is None:
            site.builder.append(node)
            refused += misses
            continue
        changed = True
        _remark(misses, ctx, code)
        for before, after in zip(node.outputs, answer, strict=True):
            site.replace(before, after)
    if not changed:
        return graph
    outputs = [site.resolve(value) for value in graph.outputs]
    site.builder.nodes = list(live_nodes(site.builder.nodes, outputs))
    return site.builder.build(outputs)


def _offer(
    node: Node, site: Site, rules: Sequence[Rule]
) -> tuple[tuple[Value, ...] | None, list[Refusal]]:
    """The values of the first rule that fires, and the refusals of those before it."""
    site.builder.loc = node.loc
    site.hint = node.outputs[0].hint if node.outputs else ""
    site.offered = node
    misses: list[Refusal] = []
    for rule in rules:
        mark = len(site.builder.nodes)
        answer = rule(node, site)
        if answer is None or isinstance(answer, Miss):
            misses += [] if answer is None else [(node, answer)]
            del site.builder.nodes[mark:]
            continue
        return (answer if isinstance(answer, tuple) else (answer,)), misses
    return None, misses


def _remark(refused: Sequence[Refusal], ctx: PassContext, code: str) -> None:
    for node, miss in refused:
        ctx.remark(code, f"{node.op.name} left as it is: {miss.reason}", node.loc)


def remap(node: Node, resolve: Callable[[Value], Value]) -> Node:
    """The node reading resolved inputs; the same object when they are the same."""
    inputs = tuple(map(resolve, node.inputs))
    return node if inputs == node.inputs else replace(node, inputs=inputs)
