"""What to remove: of each family the least important share, down to a width that kernels like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.module import Module
from optc.ir.targets.target import Arch, Target
from optc.passes.base import PassContext
from optc.passes.prune.allocation import Spread, Supply, spread
from optc.passes.prune.coupling import Couplings, Family, Place, couplings
from optc.passes.prune.elimination import curves
from optc.passes.prune.importance import SCORES, Criterion
from optc.passes.prune.layers import head_places, layers_of
from optc.passes.prune.probing import Probe
from optc.passes.prune.separation import separated
from optc.passes.prune.surgery import Kept
from optc.passes.prune.ties import Pin
from optc.passes.prune.where import Where

UNEVEN = 2.0  # times the ratio: losses are guesses, so no family gives more
DEAR = "others lose less for as many operations"
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
    spread: Spread = Spread.EVEN

    @property
    def unit(self) -> str:
        """What a component is called."""
        return "heads" if self.heads else "channels"


@dataclass(frozen=True, eq=False)
class Choice:
    """Of a family that layers make: how many of its components go, or the reason why none does.

    `places` are those of the layers, `layer` makes the first of them. `narrow`: more might go, but
    not so few. `order` is that in which its components go, where it was asked for already.
    """

    family: Family
    places: tuple[Place, ...]
    layer: Node
    gone: int
    reason: str = ""
    narrow: bool = False
    order: NDArray[np.int64] | None = None


def select(module: Module, ctx: PassContext, request: Request) -> tuple[Kept, ...]:
    """What is kept of each graph, its constants `separated`; remarks say what goes and why."""
    apart = apart_of(module)
    kept = []
    for found, chosen in decided(apart, ctx, request):
        going = [(choice, choice.gone) for choice in chosen]
        kept.append(kept_without(apart, found, going, ctx, request))
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
            refusal = refusal or _refusal(family)
            gone, reason = 0, refusal or ""
            if refusal is None:
                gone, reason = _share(found, family, places, request, ctx.target)
            narrow = refusal is None and not gone
            chosen.append(Choice(family, places, layers[places[0]], gone, reason, narrow))
        if request.spread is Spread.LOSS:
            chosen = _by_loss(module, found, chosen, ctx, request)
        for choice in chosen:
            _note(choice, ctx, request)
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
    going: Sequence[tuple[Choice, int]],
    ctx: PassContext,
    request: Request,
) -> Kept:
    """A graph of the module without so many of each family, the least important ones."""
    scores = np.zeros(len(found.pin_of))
    # Asked also where nothing goes: what is missing for it is an error on every model alike.
    if not going or any(choice.order is None for choice, _ in going):
        scores = SCORES[request.criterion](module, found, ctx, request.seed)
    removed = np.zeros(len(found.pin_of), dtype=bool)
    for choice, gone in going:
        components = choice.family.components
        order = choice.order
        if order is None:
            order = components[np.argsort(scores[components], kind="stable")]
        removed[order[:gone]] = True
    return Kept(found, removed)


def _by_loss(
    module: Module, found: Couplings, chosen: Sequence[Choice], ctx: PassContext, request: Request
) -> list[Choice]:
    """Other counts, with the least loss in all; who may not, or has no curve, gives as told."""
    known = curves(module, found, ctx, "spread=loss")
    probe = Probe(module, found.graph, ctx.needed_calibration("spread=loss"))
    orders = [known.get(int(choice.family.components[0])) for choice in chosen]
    supplies = []
    for choice, curve in zip(chosen, orders, strict=True):
        free = curve is not None and (choice.gone or choice.narrow)
        widths: tuple[int, ...] = ()
        loss = np.zeros(0)
        if curve is not None and free:
            loss = probe.weighed(curve).loss
            size = _granule(found, choice.family, choice.places, request, ctx.target)
            count = len(choice.family.components)
            least = max(1, math.ceil(count * (1 - UNEVEN * request.ratio) - 1e-9))
            kept = range(-(-count // size) * size - size, least - 1, -size)
            widths = tuple(count - left for left in kept)
        supplies.append(Supply(choice.family.components, loss, widths, choice.gone))
    told = zip(chosen, orders, spread(found, supplies), strict=True)
    return [
        replace(
            choice,
            gone=gone,
            reason=choice.reason if choice.reason and not choice.narrow else "" if gone else DEAR,
            order=None if curve is None else curve.order,
        )
        for choice, curve, gone in told
    ]


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


def _refusal(family: Family) -> str | None:
    """Why none of a family can go."""
    if family.pin is not None:
        return family.pin.reason
    return "all their positions are coupled to one another" if len(family.components) == 1 else None


def _share(
    found: Couplings, family: Family, places: Sequence[Place], request: Request, target: Target
) -> tuple[int, str]:
    """How many components of a family go, and why none does."""
    size = _granule(found, family, places, request, target)
    gone = removable(len(family.components), request.ratio, size)
    if gone:
        return gone, ""
    wanted = removable(len(family.components), request.ratio, 1)
    text = f"{wanted} fewer would be no multiple of {size}" if wanted else "the ratio asks for none"
    return 0, text


def _granule(
    found: Couplings, family: Family, places: Sequence[Place], request: Request, target: Target
) -> int:
    step = request.align or kernel_step(target, places[0][0].type.dtype)
    return granule(found, places, int(family.components[0]), step)


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
