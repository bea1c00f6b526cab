"""Ops that the backend has no kernel for, taken apart into ops that it may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Op
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.decompose import activations, attention, normalizations, windows
from optc.passes.rewrite import Answer, Rule, Site, rewrite

RULES: Mapping[type[Op], Rule] = {
    **activations.RULES,
    **normalizations.RULES,
    **windows.RULES,
    **attention.RULES,
}


@dataclass(frozen=True)
class DecomposeUnsupported(Pass):
    """Take apart each op that the backend refuses, until it takes the parts.

    Ops without parts stay; building their kernels then says what is missing. With `all` every op
    that has parts is taken apart, whatever the backend says: for a look at the arithmetic, and
    for backends that know few ops.
    """

    name = "decompose-unsupported"
    effect = Effect.ROUNDING
    all: bool = False

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with fewer ops that the backend refuses."""
        rules = {op: (self._guarded(rule),) for op, rule in RULES.items()}
        return rewrite(module, rules, ctx, code="N0307")

    def _guarded(self, rule: Rule) -> Rule:
        def guarded(node: Node, site: Site) -> Answer:
            if not self.all and not _refused(node, site):
                return None
            return rule(node, site)

        return guarded


def _refused(node: Node, site: Site) -> bool:
    """Whether the backend makes no kernel of the node alone."""
    if site.ctx.accepts is None:
        return False
    fresh = {value: Value(value.type, value.hint) for value in (*node.inputs, *node.outputs)}
    inputs = tuple(dict.fromkeys(fresh[value] for value in node.inputs))
    outputs = tuple(fresh[value] for value in node.outputs)
    alone = Node(node.op, tuple(fresh[value] for value in node.inputs), outputs, node.loc)
    body = Graph(node.op.name, inputs, (alone,), outputs)
    read = dict.fromkeys(node.inputs)
    constants = frozenset(i for i, v in enumerate(read) if site.constant_of(v) is not None)
    return site.ctx.accepts(body, constants) is not None
