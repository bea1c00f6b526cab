"""What the passes that remove a share of a module have in common: their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from optc.ir.diagnostics import error
from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.prune.allocation import Spread
from optc.passes.prune.importance import Criterion
from optc.passes.prune.match_statistics import MatchStatistics
from optc.passes.prune.reconstruct_weights import ReconstructWeights
from optc.passes.prune.rounds import Recover, prune
from optc.passes.prune.selection import Request
from optc.passes.prune.where import Where


class Recovery(Enum):
    """What mends a module after each round: a recovery pass with its defaults, or none."""

    NONE = "none"
    MATCH_STATISTICS = "match-statistics"
    RECONSTRUCT_WEIGHTS = "reconstruct-weights"


RECOVERY: Mapping[Recovery, Recover | None] = {
    Recovery.NONE: None,
    Recovery.MATCH_STATISTICS: MatchStatistics().run,
    Recovery.RECONSTRUCT_WEIGHTS: ReconstructWeights().run,
}


@dataclass(frozen=True)
class PruneShare(Pass):
    """Remove at most `ratio` of each family; `heads` says which families.

    With several `rounds` the share grows evenly, importance is asked again in each, and `recover`
    mends the layers after it. With `spread=loss` the ratio is that of all families together: as few
    multiply-adds are left as an even share would leave, and each family gives as much as the layers
    that read it bear best, which `criterion=fit` alone can tell. `only` and `keep` name layers by
    their module path, or parts of it: `only=(encoder.layer.0)`, `keep=(*.query)`.
    """

    effect = Effect.LOSSY
    heads: ClassVar[bool]
    ratio: float = 0.3
    criterion: Criterion = Criterion.L1
    align: int | None = None
    seed: int = 0
    rounds: int = 1
    recover: Recovery = Recovery.NONE
    spread: Spread = Spread.EVEN
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is a share between 0 and 1, not {self.ratio}")
        if self.align is not None and self.align < 1:
            unit = "features" if self.heads else "channels"
            raise ValueError(f"align is a positive number of {unit}, not {self.align}")
        if self.rounds < 1:
            raise ValueError(f"rounds is a positive number, not {self.rounds}")

    @property
    def request(self) -> Request:
        """The options as `selection` takes them."""
        where = Where(self.only, self.keep)
        return Request(
            self.heads, self.ratio, self.criterion, self.align, self.seed, where, self.spread
        )

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The narrower module; remarks say what went, and why the rest stays.

        Raises E0132 for options that contradict each other, E0137 for a name in `only` or `keep`
        that no layer has; W0315 where nothing went.
        """
        if self.spread is Spread.LOSS and self.criterion is not Criterion.FIT:
            text = f"{self.name}: spread=loss is what criterion=fit can tell: give both"
            raise error("E0132", text, help=f"{self.name}{{criterion=fit,spread=loss}}")
        after = prune(module, ctx, self.request, self.rounds, RECOVERY[self.recover])
        stays = [finding for finding in ctx.diagnostics if finding.code == "N0311"]
        if after is module and self.ratio and stays:
            text = f"{self.name} removed nothing: {stays[0].message}"
            ctx.warn("W0315", text, stays[0].loc, help="--remarks")
        return after
