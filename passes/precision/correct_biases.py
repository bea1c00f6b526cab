"""Bias correction: the mean error of a quantized layer goes into its bias.

Nagel et al. 2019 (section 4.2), in its empirical form: rounded weights and clipped activations move
the mean of a channel, and what moves it is subtracted. Layers are corrected in order, each on what
those before it have become.

A layer's mean is not what a user sees. Where many places hardly matter for the answer (the margin
beside a line of text, padding behind a sentence), their errors make the mean, and correcting it
moves the few places that do matter. So each correction is judged by the model's outputs, on calls
that no mean was learnt from, and left out where these are not nearer to the original's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from optc.ir.graph import Graph, Node
from optc.ir.module import Module
from optc.ir.ops import Dequantize
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.calibration import Array, Walk, spread_calls
from optc.passes.lineage import Origin
from optc.passes.precision.layers import LAYERS, Names, output_shape
from optc.passes.precision.output_errors import Errors, OutputErrors, nearer
from optc.passes.precision.rescaling import Floats, floats, is_known, with_numbers

CODE, LEFT = "N0336", "N0337"
SAME = 1e-4  # of the channels' spread: a mean that is off by less is left alone
JUDGES = 16  # calls that corrections are judged on, at most
STEPS = 16  # layers are corrected and judged in so many groups, at most: each runs half the model


@dataclass(frozen=True)
class CorrectBiases(Pass):
    """Give channels of quantized layers the mean that they have in the original, where that helps.

    Runs behind `quantize`, `assign-precision`, or pruning and one of these, over `calls` batches of
    the calibration part (0: all): means come from some, outputs are judged on others. Nothing
    happens where no pass changed a layer before.
    """

    name = "correct-biases"
    effect = Effect.LOSSY
    calls: int = 64

    def __post_init__(self) -> None:
        if self.calls < 0:
            raise ValueError(f"calls is not negative, as {self.calls} is")

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with corrected biases; remarks say by how much, or why a bias stays."""
        layers = [node for graph in module.graphs for node in graph.nodes if _is_layer(node, graph)]
        original = ctx.lineage.original
        if not layers or original is None or original is module:
            return module
        calibration = ctx.needed_calibration(self.name)
        known = {value for graph in original.graphs for value in graph.values()}
        origins = {node: ctx.lineage.origin(node.output) for node in layers}
        layers = [node for node in layers if origins[node].value in known]
        learnt, judged = parted(spread_calls(calibration.batches.calls, self.calls))
        wanted = {origins[node].value for node in layers}
        walk = calibration.walk(module, (), learnt)
        beside = calibration.walk(original, wanted, learnt)
        seen = calibration.walk(module, (), judged)
        truth = calibration.walk(original, (), judged)
        if walk is None or beside is None or seen is None or truth is None:
            ctx.remark(CODE, f"{self.name}: the model runs more than one graph")
            return module
        outputs = OutputErrors.of(truth)
        state = _State(walk, seen, outputs, outputs.of_calls(seen), ctx)
        for group in _groups(layers):
            state = state.after(group, origins, beside)
        graph = state.walk.graph
        return module if graph in module.graphs else module.with_graphs((graph,))


@dataclass(frozen=True, eq=False)
class _State:
    """How far the pass is: a walk over the calls to learn from, one over those to judge on."""

    walk: Walk
    seen: Walk
    outputs: OutputErrors
    errors: Errors  # of the calls to judge on, as things are
    ctx: PassContext

    def after(
        self, layers: Sequence[Node], origins: Mapping[Node, Origin], original: Walk
    ) -> _State:
        """With these layers corrected, or as it is where outputs are not nearer."""
        tried = replace(self, walk=self.walk.fork(), seen=self.seen.fork())
        names, off = Names.of(self.walk.graph), dict[Node, float]()
        for node in layers:
            original.until(origins[node].value)
            found = tried.corrected(node, origins[node], original)
            original.drop(origins[node].value)
            if found is not None:
                off[node] = found
        if not off:
            return self
        before, after = self.errors, self.outputs.of_calls(tried.seen)
        kept = nearer(before, after)
        for node, share in off.items():
            text = f"{names.name(node)}: its mean was off by {share:.2g} of its spread"
            errors = f"{100 * before.mean():.3g} to {100 * after.mean():.3g} %"
            if kept:
                self.ctx.remark(CODE, text, node.loc)
            else:
                why = f", and stays: the outputs' error goes from {errors} with it corrected"
                self.ctx.remark(LEFT, text.replace("was", "is") + why, node.loc)
        return replace(tried, errors=after) if kept else self

    def corrected(self, node: Node, origin: Origin, original: Walk) -> float | None:
        """Correct a layer in both walks: by how much it was off; None where it was not."""
        graph = self.walk.graph
        for value in node.inputs:
            if value not in graph.constants:
                self.walk.until(value)
        mean, _ = _moments(node, self.walk.results(node))
        wanted, spread = _moments(node, _kept(original.at(origin.value), origin))
        off = float(np.abs(mean - wanted).max() / max(float(spread.max()), 1e-30))
        if not np.isfinite(off) or off < SAME:
            return None
        bias = floats(graph, node.inputs[2]) if len(node.inputs) > 2 else np.zeros(len(mean))
        changed = with_numbers(graph, {(node, 2): bias + wanted - mean})
        new = next(other for other in changed.nodes if other.outputs is node.outputs)
        constants = {new.inputs[2]: changed.constants[new.inputs[2]]}
        self.walk.replace(node, new, constants)
        self.seen.replace(node, new, constants)
        return off


def parted(calls: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Calls to learn from and calls to judge on; one call alone is for both."""
    if len(calls) < 2:
        return calls, calls
    judged = [calls[place] for place in spread_calls(len(calls), min(JUDGES, len(calls) // 2))]
    return [call for call in calls if call not in judged], judged


def _groups(layers: Sequence[Node]) -> Iterator[Sequence[Node]]:
    size = -(-len(layers) // STEPS)
    return (layers[start : start + size] for start in range(0, len(layers), max(size, 1)))


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
