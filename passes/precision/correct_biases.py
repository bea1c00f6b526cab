"""Bias correction: the mean error of a quantized layer goes into its bias.

Nagel et al. 2019 (section 4.2), in its empirical form: rounded weights and clipped activations move
the mean of a channel, and what moves it is subtracted. Layers are corrected in order, each on what
those before it have become.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from optc.ir.graph import Graph, Node
from optc.ir.module import Module
from optc.ir.ops import Dequantize
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.calibration import Array, Walk
from optc.passes.lineage import Origin
from optc.passes.precision.layers import LAYERS, Names, output_shape
from optc.passes.precision.rescaling import Floats, floats, is_known, with_numbers

CODE = "N0336"
SAME = 1e-4  # of the channels' spread: a mean that is off by less is left alone


@dataclass(frozen=True)
class CorrectBiases(Pass):
    """Give each channel of quantized layers the mean that it has in the original.

    Runs behind `quantize`, `assign-precision`, or pruning and one of these; means are over `calls`
    batches of the calibration part (0: all). Nothing happens where no pass changed a layer before.
    """

    name = "correct-biases"
    effect = Effect.LOSSY
    calls: int = 64

    def __post_init__(self) -> None:
        if self.calls < 0:
            raise ValueError(f"calls is not negative, as {self.calls} is")

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with corrected biases; remarks say by how much."""
        layers = [node for graph in module.graphs for node in graph.nodes if _is_layer(node, graph)]
        original = ctx.lineage.original
        if not layers or original is None or original is module:
            return module
        calibration = ctx.needed_calibration(self.name)
        known = {value for graph in original.graphs for value in graph.values()}
        origins = {node: ctx.lineage.origin(node.output) for node in layers}
        layers = [node for node in layers if origins[node].value in known]
        walk = calibration.walk(module, (), self.calls)
        beside = calibration.walk(original, {origins[node].value for node in layers}, self.calls)
        if walk is None or beside is None:
            ctx.remark(CODE, f"{self.name}: the model runs more than one graph")
            return module
        return module.with_graphs((_corrected(layers, origins, (walk, beside), ctx),))


def _corrected(
    layers: list[Node], origins: dict[Node, Origin], walks: tuple[Walk, Walk], ctx: PassContext
) -> Graph:
    walk, original = walks
    names = Names.of(walk.graph)
    for node in layers:
        for value in node.inputs:
            if value not in walk.graph.constants:
                walk.until(value)
        original.until(origins[node].value)
        mean, _ = _moments(node, walk.results(node))
        wanted, spread = _moments(node, _kept(original.at(origins[node].value), origins[node]))
        original.drop(origins[node].value)
        off = float(np.abs(mean - wanted).max() / max(float(spread.max()), 1e-30))
        if not np.isfinite(off) or off < SAME:
            continue
        bias = floats(walk.graph, node.inputs[2]) if len(node.inputs) > 2 else np.zeros(len(mean))
        graph = with_numbers(walk.graph, {(node, 2): bias + wanted - mean})
        new = next(other for other in graph.nodes if other.outputs is node.outputs)
        walk.replace(node, new, {new.inputs[2]: graph.constants[new.inputs[2]]})
        ctx.remark(
            CODE, f"{names.name(node)}: its mean was off by {off:.2g} of its spread", node.loc
        )
    return walk.graph


def _is_layer(node: Node, graph: Graph) -> bool:
    """Whether a layer has integer weights, and a bias that can be changed."""
    if not isinstance(node.op, LAYERS) or not is_known(graph, *node.inputs[2:]):
        return False
    maker = graph.producer.get(node.inputs[1])
    return maker is not None and isinstance(maker.op, Dequantize)


def _kept(arrays: Iterator[Array], origin: Origin) -> Iterator[Array]:
    for array in arrays:
        yield array[np.ix_(*origin.kept)]


def _moments(node: Node, arrays: Iterator[Array]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel over all calls."""
    shape = output_shape(node)
    rest = tuple(axis for axis, extent in enumerate(shape) if extent == 1)
    channels = int(np.prod(shape))
    first, second, count = np.zeros(channels), np.zeros(channels), 0
    for array in arrays:
        numbers = array.astype(np.float64)
        first += numbers.sum(rest).reshape(-1)
        second += (numbers**2).sum(rest).reshape(-1)
        count += numbers.size // channels
    mean = first / max(count, 1)
    return mean, np.sqrt(np.maximum(second / max(count, 1) - mean**2, 0.0))
