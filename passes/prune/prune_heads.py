"""Structural pruning of attention: whole heads leave, with their part of every projection.

Most heads of a trained transformer can go (Michel, Levy and Neubig 2019). With grouped queries a
key head leaves together with all queries that read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.passes.prune.share import PruneShare


@dataclass(frozen=True)
class PruneHeads(PruneShare):
    """Remove the least important attention heads, together with their projections.

    `ratio` is the share of each layer's heads to remove at most; `criterion` is as for
    `prune-channels`.
    """

    name = "prune-heads"
    heads = True
