"""Static 8-bit quantization after training: what calibration saw becomes scales and zeros.

Weights are symmetric with a scale per output channel, activations have one scale and zero per
tensor (Jacob et al. 2018; Krishnamoorthi 2018, section 3). The result computes in floats what
integers will compute; `integerize` makes the integers of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optc.ir.constant import constant, to_floats
from optc.ir.cost import total
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import ConvTranspose
from optc.ir.ops.quantization import limits
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.precision.affine import Affine, affine, largest, quantized, step
from optc.passes.precision.insertion import Weights, inserted
from optc.passes.precision.layers import Names, candidates, refusal, weight_shape
from optc.passes.precision.observe import Observer, Range, observed
from optc.passes.precision.placement import Placement

REFUSED, DONE = "N0330", "N0331"
_BIAS = 1 << 30  # the largest bias, in units of an i32 sum, so that the sum has room beside it


@dataclass(frozen=True)
class Quantize(Pass):
    """Compute convolutions and linear layers with 8-bit integers, ranges learnt from the data.

    `observer` says how a range is chosen: all that was seen (minmax), all but a share of `outliers`
    on either side (percentile), or what gives the least squared error (mse). `keep_float` names
    layers, or modules of the model, that stay as they are. With `power_of_two` all scales are
    powers of two, for machines that shift: as a rule one bit less of precision.
    """

    name = "quantize"
    effect = Effect.LOSSY
    observer: Observer = Observer.MSE
    outliers: float = 1e-4
    keep_float: tuple[str, ...] = ()
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.outliers <= 1:
            raise ValueError(f"outliers is a share between 0 and 1, not {self.outliers}")

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with quantize and dequantize around what integers will compute."""
        graphs = [_Quantization(graph, self, ctx) for graph in module.graphs]
        while wanted := [value for graph in graphs for value in graph.unseen()]:
            seen = ctx.needed_calibration(self.name).statistics(module, wanted)
            for graph in graphs:
                for value in graph.unseen():
                    graph.ranges[value] = observed(
                        seen[value], self.observer, self.outliers, graph.levels
                    )
                graph.settle()
        return module.with_graphs(tuple(graph.result() for graph in graphs))


class _Quantization:
    """One graph: which layers, their points, and the ranges of these as they become known."""

    def __init__(self, graph: Graph, options: Quantize, ctx: PassContext) -> None:
        self.graph, self.options, self.ctx = graph, options, ctx
        self.dtype = ctx.target.activations
        self.levels = 1 << self.dtype.bits
        self.names = Names.of(graph)
        self.ranges: dict[Value, Range] = {}
        self.reasons: dict[Node, str] = {}
        self.layers = [node for node in candidates(graph) if self.is_chosen(node)]
        self.placement = Placement(graph, self.layers)

    def is_chosen(self, node: Node) -> bool:
        kept = self.names.matches(node, self.options.keep_float)
        reason = f"keep_float={kept}" if kept is not None else refusal(self.graph, node)
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
            shift = self.options.power_of_two
            shared = affine(low, high, self.dtype, symmetric=symmetric, shift=shift)
            found.update(dict.fromkeys(group, shared))
        return found

    def result(self) -> Graph:
        """The graph in integers, and remarks on what stays."""
        for node, reason in self.reasons.items():
            message = f"{node.op.name} {self.names.name(node)} stays in floats: {reason}"
            self.ctx.remark(REFUSED, message, node.loc)
        if not self.layers:
            return self.graph
        self.summarise()
        affines = self.affines()
        shift = self.options.power_of_two
        weights = {
            node: weights_of(self.graph, node, affines[self.point(node)], shift=shift)
            for node in self.layers
        }
        return inserted(self.placement, affines, weights)

    def summarise(self) -> None:
        done, all_ = total(self.layers).flops, total([*self.layers, *self.reasons]).flops
        message = (
            f"{len(self.layers)} of {len(self.layers) + len(self.reasons)} layers quantized to "
            f"{self.dtype}, weights i8: {100 * done / max(all_, 1):.1f} % of their operations"
        )
        self.ctx.remark(DONE, message)


def weights_of(graph: Graph, node: Node, source: Affine, *, shift: bool) -> Weights:
    """A layer's weight in i8, a scale per output channel, and its bias in whole units of its sums.

    A scale is not so small that the bias would not fit i32 beside the sums. Channels of zeros have
    any scale.
    """
    shape = weight_shape(node)
    array = to_floats(graph.constants[node.inputs[1]]).astype(np.float64)
    size = largest(array, shape) / limits(DType.I8)[1]
    bias = None
    if len(node.inputs) > 2:
        bias = to_floats(graph.constants[node.inputs[2]]).astype(np.float64)
        size = np.maximum(size, np.abs(bias).reshape(shape) / (source.scale * _BIAS))
    scale = step(np.where(size > 0, size, 1.0), shift=shift)
    if bias is not None:
        unit = (np.float32(source.scale) * scale).astype(np.float64).reshape(-1)
        bias = np.rint(bias / unit) * unit
    return Weights(
        quantized(array, scale, DType.I8),
        constant(scale),
        None if bias is None else constant(bias.astype(np.float32)),
    )
