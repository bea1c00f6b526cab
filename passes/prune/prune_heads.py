"""Structural pruning of attention: whole heads leave, with their part of every projection.

Most heads of a trained transformer can go (Michel, Levy and Neubig 2019). With grouped queries a
key head leaves together with all queries that read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.prune.importance import Criterion
from optc.passes.prune.selection import Request, prune


@dataclass(frozen=True)
class PruneHeads(Pass):
    """Remove the least important attention heads, together with their projections.

    `ratio` is the share of each layer's heads to remove at most; `criterion` is as for
    `prune-channels`.
    """

    name = "prune-heads"
    effect = Effect.LOSSY
    ratio: float = 0.3
    criterion: Criterion = Criterion.L1
    align: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is a share between 0 and 1, not {self.ratio}")
        if self.align is not None and self.align < 1:
            raise ValueError(f"align is a positive number of features, not {self.align}")

    @property
    def request(self) -> Request:
        """The options as `selection` takes them."""
        return Request(True, self.ratio, self.criterion, self.align, self.seed)

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with fewer heads; remarks say what went, and why the rest stays."""
        return prune(module, ctx, self.request)
