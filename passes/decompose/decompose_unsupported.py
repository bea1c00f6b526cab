"""Ops that the backend has no kernel for, taken apart into ops that it may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optc.ir.graph import Node
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
    """Take apart each op that the backend has no kernel for, until it has one for the parts.

    Ops without parts stay; building their kernels then says what is missing. With `all` every op
    that has parts is taken apart, whatever the backend says: for a look at the arithmetic, and
    for backends that know few ops.
    """

    name = "decompose-unsupported"
    effect = Effect.ROUNDING
    all: bool = False

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with fewer ops that the backend has no kernel for."""
        rules = {op: (self._guarded(rule),) for op, rule in RULES.items()}
        return rewrite(module, rules, ctx, code="N0307")

    def _guarded(self, rule: Rule) -> Rule:
        def guarded(node: Node, site: Site) -> Answer:
            supports = site.ctx.supports
            if not self.all and (supports is None or supports(node.op)):
                return None
            return rule(node, site)

        return guarded
