"""Removing a share in several rounds, with what was lost mended after each.

Scores are right for small steps, and a layer that is fitted after each small loss ends closer to
the original than one that is fitted once (Molchanov et al. 2017, section 2.1, prune and mend in
turns). Whatever the number of rounds, the widths in the end are those of a single one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optc.ir.graph import Graph, Value
from optc.ir.module import Module
from optc.passes.base import PassContext
from optc.passes.prune.coupling import Place, couplings
from optc.passes.prune.selection import Request, apart_of, decided, families, kept_without
from optc.passes.prune.surgery import removal

Recover = Callable[[Module, PassContext], Module]


@dataclass(frozen=True, slots=True)
class _Due:
    """Of a family that had `count` components before the first round, `gone` go by the last."""

    count: int
    gone: int

    def now(self, left: int, share: float) -> int:
        """How many go now, of `left`, to have removed that share of all that go."""
        return max(0, int(self.gone * share + 1e-9) - (self.count - left))


def prune(
    module: Module,
    ctx: PassContext,
    request: Request,
    rounds: int = 1,
    recover: Recover | None = None,
) -> Module:
    """The module with the least important components of each family removed, and remarks why.

    `recover` mends the module after each round that removed something. Raises E0137 for names that
    no layer has.
    """
    due = {
        place: _Due(len(choice.family.components), choice.gone)
        for _, chosen in decided(apart_of(module), ctx, request)
        for choice in chosen
        for place in choice.places
    }
    for number in range(1, rounds + 1):
        after, became = _round(module, ctx, request, due, number / rounds)
        due = {(became.get(value, value), axis): row for (value, axis), row in due.items()}
        module = recover(after, ctx) if recover and after is not module else after
    return module


def _round(
    module: Module, ctx: PassContext, request: Request, due: Mapping[Place, _Due], share: float
) -> tuple[Module, Mapping[Value, Value]]:
    """The module after one round, and what became of its values; `ctx.lineage` follows them."""
    apart = apart_of(module)
    graphs: list[Graph] = []
    new_of: dict[Value, Value] = {}
    for graph, separate in zip(module.graphs, apart.graphs, strict=True):
        found = couplings(separate)
        going = [
            (family, due[places[0]].now(len(family.components), share))
            for family, places in families(found, request)
        ]
        kept = kept_without(apart, found, going, ctx, request)
        result, became = removal(kept)
        graphs.append(graph if result is separate else result)
        if became:
            ctx.lineage.begin(module)
            ctx.lineage.follow(became, kept.mask)
        new_of.update(became)
    return module.with_graphs(tuple(graphs)), new_of
