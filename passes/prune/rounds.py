"""Removing a share in several rounds, with what was lost mended after each.

Scores are right for small steps, and a layer that is fitted after each small loss ends closer to
the original than one that is fitted once (Molchanov et al. 2017, section 2.1, prune and mend in
turns). Whatever the number of rounds, the widths in the end are those of a single one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optc.ir.graph import Graph, Value
from optc.ir.module import Module
from optc.passes.base import PassContext
from optc.passes.prune.coupling import Couplings, Place, couplings
from optc.passes.prune.layers import layers_of
from optc.passes.prune.selection import (
    Choice,
    Request,
    apart_of,
    decided,
    families,
    kept_without,
)
from optc.passes.prune.surgery import Kept, removal

Chosen = tuple[Couplings, Sequence[Choice]]
Recover = Callable[[Module, PassContext], Module]


@dataclass(frozen=True, slots=True)
class _Due:
    """Of a family that had `count` components before the first round, `gone` go by the last."""

    count: int
    gone: int

    def now(self, left: int, share: float) -> int:
        """How many go now, of `left`, to have removed that share of all that go."""
        return max(0, int(self.gone * share + 1e-9) - (self.count - left))


class _Plan:
    """What is due of each family, which is found again by the positions its layers still have.

    A layer's width may hold several families, as that of a merged projection does.
    """

    def __init__(self) -> None:
        self.due: list[_Due] = []
        self.owner: dict[Place, NDArray[np.int64]] = {}  # the family of each position

    def add(self, found: Couplings, choice: Choice) -> None:
        """A family, before the first round."""
        components = choice.family.components
        for place in choice.places:
            held = found.components(*place)
            owner = self.owner.setdefault(place, np.full(len(held), -1))
            owner[np.isin(held, components)] = len(self.due)
        self.due.append(_Due(len(components), choice.gone))

    def of(self, found: Couplings, choice: Choice) -> _Due:
        """What is due of a family as it is now."""
        held = found.components(*choice.places[0])
        position = int(np.argmax(held == choice.family.components[0]))
        return self.due[int(self.owner[choice.places[0]][position])]

    def follow(self, kept: Kept, became: Mapping[Value, Value]) -> None:
        """Positions that are left have new values, and new numbers."""
        self.owner |= {
            (became[value], axis): owner[kept.mask(value, axis)]
            for (value, axis), owner in self.owner.items()
            if value in became
        }


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
    plan, apart = _Plan(), apart_of(module)
    chosen: Sequence[Chosen] = tuple(decided(apart, ctx, request))
    for found, choices in chosen:
        for choice in choices:
            plan.add(found, choice)
    for number in range(1, rounds + 1):
        if number > 1:
            apart = apart_of(module)
            chosen = [_again(graph, request) for graph in apart.graphs]
        after = _round(module, apart, chosen, plan, number / rounds, ctx, request)
        module = recover(after, ctx) if recover and after is not module else after
    return module


def _again(graph: Graph, request: Request) -> Chosen:
    """The families of a graph that an earlier round has left."""
    found, layers = couplings(graph), layers_of(graph)
    chosen = (Choice(f, places, layers[places[0]], 0) for f, places in families(found, request))
    return found, tuple(chosen)


def _round(
    module: Module,
    apart: Module,
    chosen: Sequence[Chosen],
    plan: _Plan,
    share: float,
    ctx: PassContext,
    request: Request,
) -> Module:
    """The module after one round; plan and lineage follow its values."""
    graphs: list[Graph] = []
    pairs = zip(module.graphs, apart.graphs, chosen, strict=True)
    for graph, separate, (found, choices) in pairs:
        going = [
            (choice, plan.of(found, choice).now(len(choice.family.components), share))
            for choice in choices
        ]
        kept = kept_without(apart, found, going, ctx, request)
        result, became = removal(kept)
        graphs.append(graph if result is separate else result)
        if became:
            plan.follow(kept, became)
            ctx.lineage.begin(module)
            ctx.lineage.follow(became, kept.mask)
    return module.with_graphs(tuple(graphs))
