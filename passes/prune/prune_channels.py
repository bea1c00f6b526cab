"""Structural pruning of widths: channels of convolutions and features of linear layers.

Removing filters by the norm of their weights: Li et al. 2017. What is coupled to them goes too, so
that the result is an ordinary, smaller network and needs no sparse kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.passes.prune.share import PruneShare


@dataclass(frozen=True)
class PruneChannels(PruneShare):
    """Remove the least important channels, together with everything coupled to them.

    `ratio` is the share of each family of coupled channels to remove at most; what stays is a
    multiple of `align` positions wide (none: the target's vectors). `criterion` says what is
    important: norms of weights (l1, l2), what the loss on the user's data would lose to first order
    (taylor; without labels on the model's own answers), what a least-squares fit of the layers that
    read them could not make up for (fit), or nothing (random). Attention heads are `prune-heads`'
    to remove.
    """

    name = "prune-channels"
    heads = False
