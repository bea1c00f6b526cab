"""A module under a plan: each layer in the precision that was chosen for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from optc.ir.constant import constant, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.passes.calibration import Calibration
from optc.passes.lineage import Lineage
from optc.passes.precision.affine import quantized
from optc.passes.precision.blocks import best_scale
from optc.passes.precision.choices import Choice, Layer
from optc.passes.precision.insertion import Weights
from optc.passes.precision.observe import Range
from optc.passes.precision.placement import Placement
from optc.passes.precision.quantization import Known, Quantization, Ranging, learn, whole

Plan = Mapping[Layer, Choice]  # layers that are not in it stay as they are


@dataclass
class Mixture:
    """Makes modules of plans; ranges are learnt once, weights rounded once for each choice."""

    source: Module
    dtype: DType  # of activations
    ranging: Ranging
    calibration: Calibration
    ranges: dict[Value, Range] = field(default_factory=dict)
    _known: Known = field(default_factory=dict)
    _stored: dict[tuple[Layer, Choice], Weights] = field(default_factory=dict)

    def settled(self, layers: Sequence[Layer]) -> list[Layer]:
        """The layers without what their ranges forbid; learns the ranges of all of them."""
        plan = {layer: Choice.INT8 for layer in layers if Choice.INT8 in layer.offers}
        graphs = self._quantizations(plan)
        learn(graphs, self.source, self.calibration)
        reasons = {node: why for found in graphs for node, why in found.reasons.items()}
        return [_without_integers(layer, reasons) if layer in plan else layer for layer in layers]

    def placements(self, layers: Sequence[Layer]) -> list[Placement]:
        """Where integers would be, graph by graph, if every layer that may took them."""
        plan = {layer: Choice.INT8 for layer in layers if Choice.INT8 in layer.offers}
        return [found.placement for found in self._quantizations(plan)]

    def module(self, plan: Plan, lineage: Lineage | None = None) -> Module:
        """The module under a plan; the source itself where nothing changes.

        `lineage` learns what became of the source's values.
        """
        graphs = self._quantizations(plan)
        learn(graphs, self.source, self.calibration)
        result = self.source.with_graphs(tuple(self._graph(found, plan) for found in graphs))
        if lineage is not None and result is not self.source:
            lineage.begin(self.source)
            for found in graphs:
                lineage.follow(found.became, whole)
        return result

    def _quantizations(self, plan: Plan) -> list[Quantization]:
        chosen = {n for layer, choice in plan.items() if choice.integers for n in layer.nodes}

        def keep(node: Node) -> str | None:
            return None if node in chosen else "the plan keeps it"

        return [
            Quantization(graph, keep, self.dtype, self.ranging, self.ranges, known=self._known)
            for graph in self.source.graphs
        ]

    def _graph(self, found: Quantization, plan: Plan) -> Graph:
        own = [(layer, c) for layer, c in plan.items() if layer.graph is found.graph]
        narrow = {n for layer, choice in own if choice is Choice.INT8_4 for n in layer.nodes}
        halves = {n for layer, choice in own if choice is Choice.HALF for n in layer.nodes}
        stored = {
            node: self._weights(layer, choice)
            for layer, choice in own
            if choice in (Choice.WEIGHTS8, Choice.WEIGHTS4)
            for node in layer.nodes
        }
        if not (found.layers or halves or stored):
            return found.graph
        return found.result(narrow, stored, halves)

    def _weights(self, layer: Layer, choice: Choice) -> Weights:
        if (layer, choice) not in self._stored:
            array = to_floats(layer.graph.constants[layer.weight]).astype(np.float64)
            scale = best_scale(array, layer.scales(choice), choice.weights)
            values = quantized(array, scale, choice.weights)
            self._stored[layer, choice] = Weights(values, constant(scale), None)
        return self._stored[layer, choice]


def _without_integers(layer: Layer, reasons: Mapping[Node, str]) -> Layer:
    reason = next((reasons[node] for node in layer.nodes if node in reasons), None)
    if reason is None:
        return layer
    offers = tuple(choice for choice in layer.offers if not choice.integers)
    return replace(layer, offers=offers, reason=reason)
