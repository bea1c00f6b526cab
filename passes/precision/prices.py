"""What each choice of a plan costs: seconds, bytes that are stored, noise at the output.

A layer's seconds are those of its kernel without what it writes. What lies between layers is
written once in each form that somebody reads: so a layer of integers between layers of floats pays
for the way there, and neighbours share it. That is what couples the choices.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from optc.ir.cost import cost
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Conv, Take
from optc.ir.targets.target import Arch, Target
from optc.passes.base import Latency, Stopwatch
from optc.passes.precision.choices import Choice, Layer
from optc.passes.precision.forms import form, kind
from optc.passes.precision.placement import Placement

# Of the time of floats' products: bytes without an instruction of their own are made words of 16
# bits first, where floats have a fused multiply-add. On AVX2 1.2 to 1.7, on SSE level with floats.
WIDENED = 1.5

Clocked = Mapping[Hashable, float]  # measured seconds by the kind of a layer's form


class Source(Enum):
    """Where the seconds of layers come from."""

    MODELLED = "modelled"  # the same in every compilation
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Price:
    """One choice for one layer. `noise` is a share of the power of the output."""

    seconds: float
    nbytes: int
    noise: float = 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """A value that layers read: seconds to write it in each form. `always` are forms that others
    read, or that the caller gives, whatever the layers do.
    """

    readers: tuple[int, ...]  # places of layers
    seconds: Mapping[DType, float]
    always: frozenset[DType] = frozenset()


@dataclass(frozen=True, slots=True)
class Prices:
    """All that the choice is made by: for each layer its choices, FLOAT first; and the points."""

    layers: tuple[Mapping[Choice, Price], ...]
    points: tuple[Point, ...] = ()

    def seconds(self, plan: Sequence[Choice]) -> float:
        """Of a whole plan, a choice for each layer."""
        own = sum(prices[c].seconds for prices, c in zip(self.layers, plan, strict=True))
        return own + sum(self._written(point, plan) for point in self.points)

    def nbytes(self, plan: Sequence[Choice]) -> int:
        """What a plan stores."""
        return sum(prices[c].nbytes for prices, c in zip(self.layers, plan, strict=True))

    def noise(self, plan: Sequence[Choice]) -> float:
        """What a plan adds to the output, errors of layers taken as independent."""
        return sum(prices[c].noise for prices, c in zip(self.layers, plan, strict=True))

    def switched(self, plan: Sequence[Choice], place: int, choice: Choice) -> float:
        """Seconds that a plan gains (negative) or loses with another choice for one layer."""
        other = [choice if index == place else c for index, c in enumerate(plan)]
        return self.seconds(other) - self.seconds(plan)

    def _written(self, point: Point, plan: Sequence[Choice]) -> float:
        forms = {plan[place].activations for place in point.readers} | point.always
        return sum(point.seconds[form] for form in forms)


def price(
    layer: Layer,
    choice: Choice,
    target: Target,
    latency: Latency,
    clocked: Clocked = MappingProxyType({}),
) -> Price:
    """What a layer takes and stores, noise left out; the time of its kernels as `clocked` says.

    A kernel's time holds what it writes, which is a point's: so much of it is taken off.
    """
    seconds = 0.0
    for node in layer.nodes:
        known = clocked.get(kind(node, choice))
        if known is None:
            seconds += _seconds(node, layer, choice, target, latency)
        else:
            seconds += max(0.0, known - latency(0, 0, node.output.type.nbytes, DType.F32))
    return Price(seconds, _stored(layer, choice))


def undominated(prices: Mapping[Choice, Price]) -> list[Choice]:
    """The choices that some plan may be fastest by, whatever noise is.

    One that reads the same as another, is no faster and has coarser weights can only lose: its
    noise, which takes a run of the model to measure, need not be known.
    """

    def beaten(choice: Choice) -> bool:
        return any(
            other.activations is choice.activations
            and other.weights.bits > choice.weights.bits
            and prices[other].seconds <= prices[choice].seconds
            for other in prices
        )

    return [choice for choice in prices if not beaten(choice)]


def clocked(layers: Sequence[Layer], stopwatch: Stopwatch, activations: DType) -> Clocked | str:
    """What the kernels of all choices take, tables left out; or why that cannot be measured."""
    forms: dict[Hashable, Graph] = {}
    for layer in layers:
        for node in layer.nodes:
            for choice in layer.offers if len(layer.offers) > 1 else ():
                if not isinstance(node.op, Take) and kind(node, choice) not in forms:
                    forms[kind(node, choice)] = form(node, layer, choice, activations)
    found = stopwatch(tuple(forms.values()))
    return found if isinstance(found, str) else dict(zip(forms, found, strict=True))


def _stored(layer: Layer, choice: Choice) -> int:
    elements = layer.weight.type.elements
    scales = 0
    if choice not in (Choice.FLOAT, Choice.HALF):
        scales = 4
        for extent in layer.scales(choice):
            scales *= extent
    return choice.weights.nbytes(elements) + scales


def _seconds(node: Node, layer: Layer, choice: Choice, target: Target, latency: Latency) -> float:
    if isinstance(node.op, Take):
        rows = 2 * node.output.type.elements * choice.weights.bits // 8
        return latency(0, rows, 0, DType.F32)
    x, weight = node.inputs[0].type, layer.weight.type.elements
    # Weights of half bytes are whole ones where kernels of bytes read them.
    stored = weight if choice.integers else choice.weights.nbytes(weight)
    read = choice.activations.nbytes(x.elements) + stored
    flops = cost(node).flops
    if not _reads_one_channel(node):
        return latency(flops, read, 0, choice.activations)
    # Its products have no neighbours that one instruction could add: bytes are multiplied no
    # faster than floats.
    widened = choice.integers and target.arch is Arch.X86_64 and target.fma
    if widened and not target.multiplies_bytes:
        flops = round(WIDENED * flops)
    return latency(flops, read, 0, DType.F32)


def _reads_one_channel(node: Node) -> bool:
    return isinstance(node.op, Conv) and node.inputs[1].shape[1] == 1 and node.op.groups > 1


def points_of(
    layers: Sequence[Layer], placements: Sequence[Placement], latency: Latency
) -> tuple[Point, ...]:
    """The values that layers read, each with all layers that read it, perhaps moved."""
    place = {node: index for index, layer in enumerate(layers) for node in layer.nodes}
    found: list[Point] = []
    for placement in placements:
        readers: dict[Value, set[int]] = {}
        for node in placement.graph.nodes:
            if node in place and not isinstance(node.op, Take):
                readers.setdefault(placement.source(node.inputs[0]), set()).add(place[node])
        for value, indices in readers.items():
            found.append(_point(value, indices, placement, latency))
    return tuple(found)


def _point(value: Value, readers: Collection[int], placement: Placement, latency: Latency) -> Point:
    elements = value.type.elements
    given = value in placement.graph.inputs
    seconds = {
        form: latency(0, 0, form.nbytes(elements), DType.F32)
        for form in (DType.F32, DType.BF16, DType.I8)
    }
    if given:  # the caller has written it: other forms take a kernel of their own
        whole = DType.F32.nbytes(elements)
        seconds = {f: latency(0, whole, f.nbytes(elements), DType.F32) for f in seconds}
        seconds[DType.F32] = 0.0
    floats = given or not placement.is_settled(value)
    return Point(tuple(sorted(readers)), seconds, frozenset({DType.F32}) if floats else frozenset())
