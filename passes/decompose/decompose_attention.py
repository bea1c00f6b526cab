"""Attention taken apart on request, for targets and sizes where whole kernels do not pay."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.graph import Node
from optc.ir.module import Module
from optc.ir.ops import Attention
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.decompose.attention import attention
from optc.passes.rewrite import Answer, Miss, Site, rewrite


@dataclass(frozen=True)
class DecomposeAttention(Pass):
    """Take attention apart into two products and a softmax.

    The scores then lie in memory, but the products are plain ones: this may pay where a score
    matrix is small. `scores` limits it to attention with at most that many scores per head.
    """

    name = "decompose-attention"
    effect = Effect.ROUNDING
    scores: int | None = None  # rows times columns of one head; none: all of them

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with products and softmax in place of attention."""
        return rewrite(module, {Attention: (self._apart,)}, ctx, code="N0307")

    def _apart(self, node: Node, site: Site) -> Answer:
        size = node.inputs[0].shape[-2] * node.inputs[1].shape[-2]
        if self.scores is not None and size > self.scores:
            return Miss(f"{size} scores per head are more than {self.scores}")
        return attention(node, site)
