"""Adaptive pooling as what it is for the shapes at hand."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.module import Module
from optc.ir.ops import AdaptiveAvgPool
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.decompose.windows import adaptive_pool
from optc.passes.rewrite import rewrite


@dataclass(frozen=True)
class DecomposePooling(Pass):
    """Turn adaptive average pooling into a mean, or into average pooling with a fixed window.

    Pooling to a size that does not divide the extent has windows of several sizes and stays.
    """

    name = "decompose-pooling"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with means and fixed windows."""
        return rewrite(module, {AdaptiveAvgPool: (adaptive_pool,)}, ctx, code="N0307")
