"""What to remove: of each family the least important share, down to a width that kernels like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.module import Module
from optc.ir.targets.target import Arch, Target
from optc.passes.base import PassContext
from optc.passes.prune.coupling import Couplings, Family, Place, couplings
from optc.passes.prune.importance import SCORES, Criterion
from optc.passes.prune.layers import head_places, layers_of
from optc.passes.prune.separation import separated
from optc.passes.prune.surgery import Kept
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


@dataclass(frozen=True, eq=False)
class Choice:
    """Of a family that layers make: how many of its components go, or the reason why none does.

    `places` are those of the layers, `layer` makes the first of them.
    """

    family: Family
    places: tuple[Place, ...]
    layer: Node
    gone: int
    reason: str = ""


def select(module: Module, ctx: PassContext, request: Request) -> tuple[Kept, ...]:
    """What is kept of each graph, its constants `separated`; remarks say what goes and why."""
    apart = apart_of(module)
    kept = []
    for found, chosen in decided(apart, ctx, request):
        kept.append(kept_without(apart, found, [(c.family, c.gone) for c in chosen], ctx, request))
    return tuple(kept)


def apart_of(module: Module) -> Module:
    """The module with the constants of each graph `separated`."""
    return module.with_graphs(tuple(separated(graph) for graph in module.graphs))


def decided(
    module: Module, ctx: PassContext, request: Request
) -> Iterator[tuple[Couplings, tuple[Choice, ...]]]:
    """For each graph what the request makes of its families; remarks say it.

    Raises E0137 for a name that no layer has.
    """
    request.where.check(layer for graph in module.graphs for layer in layers_of(graph).values())
    for graph in module.graphs:
        found, layers = couplings(graph), layers_of(graph)
        chosen = []
        for family, places in families(found, request):
            refusal = request.where.refusal([layers[place] for place in places])
            share = refusal or _share(found, family, places, request, ctx.target)
            gone, reason = (0, share) if isinstance(share, str) else (share, "")
            chosen.append(Choice(family, places, layers[places[0]], gone, reason))
            _note(chosen[-1], ctx, request)
        yield found, tuple(chosen)


def families(found: Couplings, request: Request) -> Iterator[tuple[Family, tuple[Place, ...]]]:
    """The families that the request is about, and where layers make them."""
    layers, heads = layers_of(found.graph), head_places(found.graph)
    for family in found.families:
        places = tuple(place for place in family.places if place in layers)
        if places and heads.isdisjoint(family.places) != request.heads:
            yield family, places


def kept_without(
    module: Module,
    found: Couplings,
    going: Iterable[tuple[Family, int]],
    ctx: PassContext,
    request: Request,
) -> Kept:
    """A graph of the module without so many of each family, the least important ones."""
    scores = SCORES[request.criterion](module, found, ctx, request.seed)
    removed = np.zeros(len(found.pin_of), dtype=bool)
    for family, gone in going:
        order = np.argsort(scores[family.components], kind="stable")
        removed[family.components[order[:gone]]] = True
    return Kept(found, removed)


def _note(choice: Choice, ctx: PassContext, request: Request) -> None:
    family, layer = choice.family, choice.layer
    count, unit = len(family.components), request.unit
    if choice.gone:
        text = f"{choice.gone} of {count} {unit} of {layer.op.name} removed"
        ctx.remark("N0310", text, layer.loc)
        return
    text = f"{count} {unit} of {layer.op.name} stay: {choice.reason}"
    if family.pin is not None and choice.reason == family.pin.reason:
        text += _elsewhere(family.pin, layer)
    ctx.remark("N0311", text, layer.loc)


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


def _elsewhere(pin: Pin, layer: Node) -> str:
    """The place of a pin, where that is another than the layer's."""
    here = (pin.loc.file, pin.loc.line) == (layer.loc.file, layer.loc.line)
    return "" if here or not pin.loc else f", at {pin.loc}"
