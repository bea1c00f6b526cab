"""Structural pruning of widths: channels of convolutions and features of linear layers.

Removing filters by the norm of their weights: Li et al. 2017. What is coupled to them goes too, so
that the result is an ordinary, smaller network and needs no sparse kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.prune.importance import Criterion
from optc.passes.prune.selection import Request, prune


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove the least important channels, together with everything coupled to them.

    `ratio` is the share of each family of coupled channels to remove at most; what stays is a
    multiple of `align` positions wide (none: the target's vectors). `criterion` says what is
    important: norms of weights (l1, l2), what the loss on the user's data would lose to first order
    (taylor; without labels on the model's own answers), or nothing (random). Attention heads are
    `prune-heads`' to remove.
    """

    name = "prune-channels"
    effect = Effect.LOSSY
    ratio: float = 0.3
    criterion: Criterion = Criterion.L1
    align: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is a share between 0 and 1, not {self.ratio}")
        if self.align is not None and self.align < 1:
            raise ValueError(f"align is a positive number of channels, not {self.align}")

    @property
    def request(self) -> Request:
        """The options as `selection` takes them."""
        return Request(False, self.ratio, self.criterion, self.align, self.seed)

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The narrower module; remarks say what went, and why the rest stays."""
        return prune(module, ctx, self.request)
