"""How much of a graph's outputs is lost for what single layers lose: measured, a family at a time.

Behind most layers others average an error out, behind the last none does. So each family goes once
by a quarter, its readers fitted, and the outputs say what that cost (Li et al. 2017, section 3.2,
layer by layer, with outputs for labels). Channels that go are those whose weights are zero: nothing
is cut, a walk over some calls is all it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from optc.ir.constant import from_floats, to_floats
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.types import TensorType
from optc.passes.calibration import Array, Calibration
from optc.passes.prune.elimination import Curve, Floats

CALLS = 8
SMALL = 1e-9  # a loss that says nothing about what it does to outputs


class Probe:
    """The outputs of a graph on some calls, for others to be held against."""

    def __init__(self, module: Module, graph: Graph, calibration: Calibration) -> None:
        self.module, self.graph, self.calibration = module, graph, calibration
        self.places = [n for n, value in enumerate(graph.outputs) if value.type.dtype.is_float]
        self.wanted = self._outputs(module, graph)
        every = [np.stack(arrays) for arrays in self.wanted]
        self.energy = [float(((a - a.mean(0)) ** 2).sum()) for a in every]

    def weighed(self, curve: Curve) -> Curve:
        """The curve in shares of the outputs' energy."""
        count, fitted = curve.probe
        lost = float(curve.loss[count - 1])
        if lost < SMALL:
            return curve
        return replace(curve, loss=curve.loss * (self.lost(fitted) / lost))

    def lost(self, fitted: Mapping[Node, tuple[Floats, Floats]]) -> float:
        """The share of the outputs' energy that layers with other weights and biases lose."""
        graph = _with_weights(self.graph, fitted)
        graphs = tuple(graph if old is self.graph else old for old in self.module.graphs)
        found = self._outputs(self.module.with_graphs(graphs), graph)
        shares = [
            sum(float(((a - b) ** 2).sum()) for a, b in zip(new, old, strict=True)) / energy
            for new, old, energy in zip(found, self.wanted, self.energy, strict=True)
            if energy > 0
        ]
        return float(np.mean(shares)) if shares else 0.0

    def _outputs(self, module: Module, graph: Graph) -> list[list[Array]]:
        values = [graph.outputs[n] for n in self.places]
        found: list[list[Array]] = [[] for _ in values]

        def see(seen: Mapping[Value, Array]) -> None:
            for value, arrays in zip(values, found, strict=True):
                arrays.append(seen[value].astype(np.float32))

        self.calibration.visit(module, values, see, CALLS)
        return found


def _with_weights(graph: Graph, fitted: Mapping[Node, tuple[Floats, Floats]]) -> Graph:
    """Biases are given as what is added to them."""
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        if node not in fitted:
            nodes.append(node)
            continue
        numbers, shift = fitted[node]
        old = node.inputs[1]
        weight, bias = (
            Value(old.type, old.hint),
            Value(TensorType((old.shape[0],), old.type.dtype), "bias"),
        )
        if len(node.inputs) > 2:
            shift = shift + to_floats(graph.constants[node.inputs[2]])
        constants[weight] = from_floats(numbers.reshape(old.shape), old.type.dtype)
        constants[bias] = from_floats(shift, old.type.dtype)
        nodes.append(replace(node, inputs=(node.inputs[0], weight, bias)))
    read = {value for node in nodes for value in node.inputs} | set(graph.outputs)
    kept = {value: item for value, item in constants.items() if value in read}
    return replace(graph, nodes=tuple(nodes), constants=kept)
