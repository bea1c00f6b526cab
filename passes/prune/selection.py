"""What to remove: of each family the least important share, down to a width that kernels like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node
from optc.ir.module import Module
from optc.ir.targets.target import Arch, Target
from optc.passes.base import PassContext
from optc.passes.prune.coupling import Couplings, Family, Place, couplings
from optc.passes.prune.importance import SCORES, Criterion
from optc.passes.prune.layers import head_places, layers_of
from optc.passes.prune.separation import separated
from optc.passes.prune.surgery import Kept, removal
from optc.passes.prune.ties import Pin
from optc.passes.prune.where import Where

GPU_ACCESS = 128  # bits: tensor cores read fragments whose rows are multiples of this


@dataclass(frozen=True, slots=True)
class Request:
    """What a pruning pass asks for. `heads` selects families of attention heads, or the others."""

    heads: bool
    ratio: float
    criterion: Criterion
    align: int | None
    seed: int
    where: Where = field(default_factory=Where)

    @property
    def unit(self) -> str:
        """What a component is called."""
        return "heads" if self.heads else "channels"


def prune(module: Module, ctx: PassContext, request: Request) -> Module:
    """The module with the least important components of each family removed, and remarks why."""
    graphs = []
    for graph, kept in zip(module.graphs, select(module, ctx, request), strict=True):
        result, became = removal(kept)
        graphs.append(graph if result is kept.found.graph else result)
        if became:
            ctx.lineage.begin(module)
            ctx.lineage.follow(became, kept.mask)
    return module.with_graphs(tuple(graphs))


def select(module: Module, ctx: PassContext, request: Request) -> tuple[Kept, ...]:
    """What is kept of each graph, its constants `separated`; remarks say what goes and why."""
    apart = module.with_graphs(tuple(separated(graph) for graph in module.graphs))
    request.where.check(layer for graph in apart.graphs for layer in layers_of(graph).values())
    return tuple(_kept(apart, graph, ctx, request) for graph in apart.graphs)


def _kept(module: Module, graph: Graph, ctx: PassContext, request: Request) -> Kept:
    found, layers, heads = couplings(graph), layers_of(graph), head_places(graph)
    scores = SCORES[request.criterion](module, found, ctx, request.seed)
    removed = np.zeros(len(found.pin_of), dtype=bool)
    for family in found.families:
        places = [place for place in family.places if place in layers]
        if not places or heads.isdisjoint(family.places) == request.heads:
            continue
        layer, count = layers[places[0]], len(family.components)
        refusal = request.where.refusal([layers[place] for place in places])
        share = refusal or _share(found, family, places, request, ctx.target)
        if isinstance(share, str):
            pin = family.pin if family.pin is not None and share == family.pin.reason else None
            reason = share if pin is None else _words(pin, layer)
            text = f"{count} {request.unit} of {layer.op.name} stay: {reason}"
            ctx.remark("N0311", text, layer.loc)
            continue
        order = np.argsort(scores[family.components], kind="stable")
        removed[family.components[order[:share]]] = True
        text = f"{share} of {count} {request.unit} of {layer.op.name} removed"
        ctx.remark("N0310", text, layer.loc)
    return Kept(found, removed)


def _share(
    found: Couplings, family: Family, places: Sequence[Place], request: Request, target: Target
) -> int | str:
    """How many components of a family go, or why none does."""
    count = len(family.components)
    if family.pin is not None:
        return family.pin.reason
    if count == 1:
        return "all their positions are coupled to one another"
    step = request.align or kernel_step(target, places[0][0].type.dtype)
    size = granule(found, places, int(family.components[0]), step)
    gone = removable(count, request.ratio, size)
    if gone:
        return gone
    wanted = removable(count, request.ratio, 1)
    return f"{wanted} fewer would be no multiple of {size}" if wanted else "the ratio asks for none"


def granule(found: Couplings, places: Sequence[Place], component: int, step: int) -> int:
    """How many components make a layer's width a multiple of `step`; `places` are of layers."""
    width = min(int((found.components(*place) == component).sum()) for place in places)
    return step // math.gcd(step, width)


def removable(count: int, ratio: float, granule: int) -> int:
    """How many of `count` may go: at most `ratio` of them, so that whole granules stay."""
    left = count - math.floor(count * ratio + 1e-9)
    return max(0, count - max(1, math.ceil(left / granule)) * granule)


def kernel_step(target: Target, dtype: DType) -> int:
    """Widths that are multiples of this leave no kernel with a remainder."""
    return GPU_ACCESS // dtype.bits if target.arch is Arch.CUDA else target.lanes(dtype)


def _words(pin: Pin, layer: Node) -> str:
    """The reason of a pin, and its place where that is another than the layer's."""
    here = (pin.loc.file, pin.loc.line) == (layer.loc.file, layer.loc.line)
    return pin.reason if here or not pin.loc else f"{pin.reason}, at {pin.loc}"
