"""One graph in 8-bit integers: which layers, their points, and ranges as they become known.

Behind `quantize`, which takes every layer it can, and `assign-precision`, which takes some.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optc.ir.constant import constant, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import ConvTranspose
from optc.ir.ops.quantization import limits
from optc.passes.calibration import Calibration
from optc.passes.precision.affine import Affine, affine, largest, quantized, step
from optc.passes.precision.blocks import best_scale
from optc.passes.precision.insertion import Weights, inserted
from optc.passes.precision.layers import candidates, refusal, weight_shape
from optc.passes.precision.observe import Observer, Range, observed
from optc.passes.precision.placement import Placement

Keep = Callable[[Node], str | None]  # why a layer stays in floats; None: it need not
Known = dict[tuple[Node, Affine, DType], Weights]
_BIAS = 1 << 29  # the largest bias, in units of an i32 sum: as much again is what zeros add to it


@dataclass(frozen=True, slots=True)
class Ranging:
    """How ranges and scales are chosen; the fields are options of `quantize`."""

    observer: Observer = Observer.MSE
    outliers: float = 1e-4
    power_of_two: bool = False


@dataclass
class Quantization:
    """The layers of a graph that `keep` leaves to integers, and what they need to be such.

    `reasons` says of every other layer why it stays. `ranges` may hold those of values that an
    earlier look at the same graph has learnt.
    """

    graph: Graph
    keep: Keep
    dtype: DType  # of activations
    ranging: Ranging = field(default_factory=Ranging)
    ranges: dict[Value, Range] = field(default_factory=dict)
    reasons: dict[Node, str] = field(default_factory=dict)
    known: Known = field(default_factory=dict)  # weights that were rounded before
    became: dict[Value, Value] = field(default_factory=dict)  # of the graph, in the result

    def __post_init__(self) -> None:
        self.layers = [node for node in candidates(self.graph) if self._is_chosen(node)]
        self.placement = Placement(self.graph, self.layers)

    def _is_chosen(self, node: Node) -> bool:
        reason = self.keep(node) or refusal(self.graph, node)
        if reason is not None:
            self.reasons[node] = reason
        return reason is None

    def unseen(self) -> list[Value]:
        """Points whose ranges are not known yet; those of constants are."""
        for value in self.placement.points:
            if value in self.graph.constants:
                array = to_floats(self.graph.constants[value])
                self.ranges[value] = float(array.min()), float(array.max())
        return [value for value in self.placement.points if value not in self.ranges]

    def settle(self) -> None:
        """Leave out layers whose input has no fitting range, and place anew."""
        affines = self.affines()
        for node in self.layers:
            if isinstance(node.op, ConvTranspose) and affines[self.point(node)].zero != 0:
                self.reasons[node] = "its input may be below zero, which no pixel between is"
        kept = [node for node in self.layers if node not in self.reasons]
        if len(kept) < len(self.layers):
            self.layers, self.placement = kept, Placement(self.graph, kept)

    def point(self, node: Node) -> Value:
        """The point that a layer's input comes from."""
        return self.placement.source(node.inputs[0])

    def affines(self) -> Mapping[Value, Affine]:
        """Parameters of every point; those that a concat joins share theirs."""
        # A transposed convolution adds up fewer products at some places: no zero but 0 folds away.
        centred = {self.point(n) for n in self.layers if isinstance(n.op, ConvTranspose)}
        found: dict[Value, Affine] = {}
        for group in self.placement.classes():
            low = min(self.ranges[value][0] for value in group)
            high = max(self.ranges[value][1] for value in group)
            symmetric = limits(self.dtype)[0] < 0 and not centred.isdisjoint(group)
            shift = self.ranging.power_of_two
            shared = affine(low, high, self.dtype, symmetric=symmetric, shift=shift)
            found.update(dict.fromkeys(group, shared))
        return found

    def result(
        self,
        narrow: Collection[Node] = (),
        stored: Mapping[Node, Weights] | None = None,
        halves: Collection[Node] = (),
    ) -> Graph:
        """The graph with its layers in integers, the weights of those in `narrow` in four bits.

        `stored` and `halves` are other nodes: with weights of integers, and in bf16.
        """
        affines = self.affines()
        weights = {
            node: self.weights(
                node, affines[self.point(node)], DType.I4 if node in narrow else DType.I8
            )
            for node in self.layers
        }
        graph, became = inserted(self.placement, affines, {**weights, **(stored or {})}, halves)
        self.became = dict(became)
        return graph

    def weights(self, node: Node, source: Affine, dtype: DType) -> Weights:
        """A layer's weight, a scale per output channel, and its bias in whole units of its sums.

        A scale is not so small that the bias would not fit i32 beside the sums. Channels of zeros
        have any scale.
        """
        if (node, source, dtype) not in self.known:
            self.known[node, source, dtype] = self._rounded(node, source, dtype)
        return self.known[node, source, dtype]

    def _rounded(self, node: Node, source: Affine, dtype: DType) -> Weights:
        shape, shift = weight_shape(node), self.ranging.power_of_two
        array = to_floats(self.graph.constants[node.inputs[1]]).astype(np.float64)
        size = largest(array, shape) / limits(dtype)[1]
        if dtype is DType.I4:
            size = np.where(size > 0, best_scale(array, shape, dtype).astype(np.float64), 0.0)
        bias = None
        if len(node.inputs) > 2:
            bias = to_floats(self.graph.constants[node.inputs[2]]).astype(np.float64)
            size = np.maximum(size, np.abs(bias).reshape(shape) / (source.scale * _BIAS))
        scale = step(np.where(size > 0, size, 1.0), shift=shift)
        if bias is not None:
            unit = (np.float32(source.scale) * scale).astype(np.float64).reshape(-1)
            bias = np.rint(bias / unit) * unit
        return Weights(
            quantized(array, scale, dtype),
            constant(scale),
            None if bias is None else constant(bias.astype(np.float32)),
        )


def learn(graphs: Sequence[Quantization], module: Module, calibration: Calibration) -> None:
    """Ranges of all points, until no layer has to be left out for its range."""
    while wanted := [value for graph in graphs for value in graph.unseen()]:
        seen = calibration.statistics(module, wanted)
        for graph in graphs:
            how = graph.ranging
            for value in graph.unseen():
                graph.ranges[value] = observed(
                    seen[value], how.observer, how.outliers, 1 << graph.dtype.bits
                )
            graph.settle()


def whole(value: Value, axis: int) -> NDArray[np.bool_]:
    """For lineages: rounding keeps all of every axis."""
    return np.ones(value.shape[axis], np.bool_)
