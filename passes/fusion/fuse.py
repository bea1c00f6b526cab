"""Group nodes into tasks, each of which becomes one kernel.

Greedy, in graph order, in the manner of TVM's operator fusion (Chen et al. 2018, section 3): a
task holds at most one anchor; elementwise nodes and moves join the task that computes what they
read, and an anchor takes in the moves and elementwise nodes that feed it alone. A task has one
output. Whether a grown task is still a good kernel is the backend's word (`ctx.accepts`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from optc.ir.diagnostics import Loc
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Dequantize, Reshape, Task, ew
from optc.ir.ops.contraction import BYTES
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.fusion.apart import dequantized_apart
from optc.passes.fusion.classify import ROLE, Role
from optc.passes.fusion.outline import outline

_CODE = "N0309"


@dataclass(eq=False, slots=True)
class _Group:
    """Nodes that are to become a task, in graph order; `role` is that of the whole."""

    nodes: list[Node]
    role: Role

    @property
    def output(self) -> Value:
        return self.nodes[-1].outputs[0]


@dataclass(frozen=True)
class Fuse(Pass):
    """Group nodes into tasks: an anchor with what feeds it and what follows it, or a chain."""

    name = "fuse"
    effect = Effect.ROUNDING  # values inside a task are not rounded to their storage type
    max_nodes: int = 64  # nodes per task; more make kernels that compilers choke on

    def run(self, module: Module, ctx: PassContext) -> Module:
        """Fuse every graph."""
        return module.with_graphs(
            tuple(_fuse(graph, ctx, self.max_nodes) for graph in module.graphs)
        )


def _fuse(graph: Graph, ctx: PassContext, max_nodes: int) -> Graph:
    apart = dequantized_apart(graph)
    fusion = _Fusion(apart, ctx, max_nodes)
    for node in apart.nodes:
        fusion.add(node)
    fusion.add_left_over()
    result = fusion.result()
    return graph if result is apart else result


class _Fusion:
    def __init__(self, graph: Graph, ctx: PassContext, max_nodes: int) -> None:
        self.graph = graph
        self.ctx = ctx
        self.max_nodes = max_nodes
        self.order = {node: index for index, node in enumerate(graph.nodes)}
        self.group_of: dict[Node, _Group] = {}
        self.results = set(graph.outputs)

    def add(self, node: Node) -> None:
        """Give the node a group, and let the group take in the groups that it alone reads."""
        group = _Group([node], ROLE[type(node.op)])
        self.group_of[node] = group
        if _is_opening(node):
            return  # its reader may take it in: the task before it writes the small integers
        self.take_in(group)

    def add_left_over(self) -> None:
        """What its reader did not take ends the task before it, which then writes floats."""
        for node in self.graph.nodes:
            if _is_opening(node) and len(self.group_of[node].nodes) == 1:
                self.take_in(self.group_of[node])

    def take_in(self, group: _Group) -> None:
        """Merge groups that `group` alone reads into it, as long as that makes good kernels."""
        if group.role is Role.OPAQUE or len(group.nodes[-1].outputs) != 1:
            return
        refused: set[_Group] = set()
        while (producer := self.candidate(group, refused)) is not None:
            merged = self.merged(producer, group)
            if merged is None:
                refused.add(producer)
                continue
            group = merged
            self.group_of.update(dict.fromkeys(group.nodes, group))

    def candidate(self, group: _Group, refused: set[_Group]) -> _Group | None:
        """A group whose output only `group` reads; anchors before chains, the latest first."""
        inside = set(group.nodes)
        found: list[_Group] = []
        for value in {v: None for node in group.nodes for v in node.inputs}:
            node = self.graph.producer.get(value)
            if node is None or node in inside or value in self.results:
                continue
            producer = self.group_of[node]
            single = len(node.outputs) == 1 and producer.output is value
            if single and producer not in refused and inside.issuperset(self.graph.users[value]):
                found.append(producer)
        rank = {Role.ANCHOR: 1}
        return max(
            found,
            key=lambda item: (rank.get(item.role, 0), self.order[item.nodes[-1]]),
            default=None,
        )

    def merged(self, producer: _Group, group: _Group) -> _Group | None:
        """The two as one group, or None when that is no good kernel."""
        roles = (producer.role, group.role)
        if Role.OPAQUE in roles or roles == (Role.ANCHOR, Role.ANCHOR):
            return None
        nodes = sorted((*producer.nodes, *group.nodes), key=self.order.__getitem__)
        if len(nodes) > self.max_nodes:
            return None
        role = next((r for r in (Role.ANCHOR, Role.INJECTIVE) if r in roles), Role.ALIAS)
        if role is Role.ANCHOR and not self.accepted(nodes):
            return None
        return _Group(nodes, role)

    def accepted(self, nodes: list[Node]) -> bool:
        """Whether the backend makes one good kernel of these nodes; a refusal is a remark."""
        if self.ctx.accepts is None:
            return _keeps_shape(nodes)
        outlined = outline(self.graph, _trim(nodes)[1], self.results)
        reason = self.ctx.accepts(outlined.body, outlined.constants)
        if reason is not None:
            message = f"{nodes[-1].op.name} not fused into {outlined.body.name}: {reason}"
            self.ctx.remark(_CODE, message, nodes[-1].loc)
        return reason is None

    def result(self) -> Graph:
        """The graph with one node per group, in the order of the groups' last nodes."""
        groups = {id(group): group for group in self.group_of.values()}
        ordered = sorted(groups.values(), key=lambda group: self.order[group.nodes[-1]])
        nodes: list[Node] = []
        for group in ordered:
            before, middle, after = _trim(group.nodes)
            nodes += before
            nodes += [self.task(middle)] if len(middle) > 1 else middle
            nodes += after
        if all(not isinstance(n.op, Task) or n in self.order for n in nodes):
            return self.graph
        used = {value for node in nodes for value in node.inputs} | self.results
        constants = {v: item for v, item in self.graph.constants.items() if v in used}
        return replace(self.graph, nodes=tuple(nodes), constants=constants)

    def task(self, nodes: list[Node]) -> Node:
        outlined = outline(self.graph, nodes, self.results)
        anchor = next((n for n in nodes if ROLE[type(n.op)] is Role.ANCHOR), nodes[-1])
        loc: Loc = anchor.loc
        return Node(Task(body=outlined.body), outlined.inputs, outlined.outputs, loc)


def _is_opening(node: Node) -> bool:
    """Whether a node makes wide numbers of integers that lie smaller in memory."""
    if isinstance(node.op, ew.Cast):
        return node.op.dtype is DType.I32 and node.inputs[0].type.dtype in BYTES
    return isinstance(node.op, Dequantize) and node.inputs[0].type.dtype is not DType.I32


def _trim(nodes: list[Node]) -> tuple[list[Node], list[Node], list[Node]]:
    """Reshapes at the borders of a task are no work: leave them outside, as aliases."""
    middle = list(nodes)
    after: list[Node] = []
    while len(middle) > 1 and isinstance(middle[-1].op, Reshape):
        after.insert(0, middle.pop())
    before: list[Node] = []
    made = {value for node in middle for value in node.outputs}
    for node in list(middle):
        if len(middle) == 1 or not isinstance(node.op, Reshape):
            continue
        used = any(node.outputs[0] in other.inputs for other in middle)
        if used and made.isdisjoint(node.inputs):
            before.append(node)
            middle.remove(node)
            made.difference_update(node.outputs)
    return before, middle, after


def _keeps_shape(nodes: list[Node]) -> bool:
    """Without a backend's word: nothing feeds the anchor, and all else has its result's shape."""
    anchor = next(node for node in nodes if ROLE[type(node.op)] is Role.ANCHOR)
    made = {value for node in nodes for value in node.outputs}
    shape = anchor.outputs[0].shape
    return made.isdisjoint(anchor.inputs) and all(n.outputs[0].shape == shape for n in nodes)
