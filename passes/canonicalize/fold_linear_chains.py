"""Chains of constant linear maps as one map: a Fourier filter is a convolution (Oppenheim 8.7)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from optc.ir.builder import Builder, live_nodes
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Conv, Linear, Reshape
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.canonicalize.linear_maps import LinearMap, LinearMaps
from optc.passes.rewrite import remap
from optc.passes.weights import rounded

_CODE = "N0308"
# Share of the largest coefficient that rounded matrices leave where there should be none.
_NOISE = {DType.F64: 1e-13}
_NOISE_F32 = 1e-6


@dataclass(frozen=True)
class FoldLinearChains(Pass):
    """Compose linear layers, constant products and sums along one axis into one linear map.

    Capture writes Fourier transforms as products with constant matrices: a filter in the frequency
    domain, irfft(rfft(u) * h), is such a chain. The composition becomes a linear layer, or a
    convolution where it only depends on the distance between input and output, if that needs
    fewer multiplications than the chain. `largest` bounds the map that is written out for a look.
    """

    name = "fold-linear-chains"
    effect = Effect.ROUNDING
    largest: int = 1 << 24  # elements

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with chains composed."""
        return module.with_graphs(tuple(_composed(g, self.largest, ctx) for g in module.graphs))


def _composed(graph: Graph, largest: int, ctx: PassContext) -> Graph:
    maps = LinearMaps(graph)
    builder = Builder(graph.name)
    builder.inputs, builder.constants = list(graph.inputs), dict(graph.constants)
    stands_for: dict[Value, Value] = {}
    for node in graph.nodes:
        found = _end_of_chain(graph, maps, node)
        result = None
        if found is not None:
            builder.loc = node.loc
            source = stands_for.get(found.source, found.source)
            result = _one_map(builder, graph, node, replace(found, source=source), largest, ctx)
        if result is not None:
            stands_for[node.output] = result
        builder.append(remap(node, lambda value: stands_for.get(value, value)))
    if not stands_for:
        return graph
    outputs = [stands_for.get(value, value) for value in graph.outputs]
    builder.nodes = list(live_nodes(builder.nodes, outputs))
    return builder.build(outputs)


def _end_of_chain(graph: Graph, maps: LinearMaps, node: Node) -> LinearMap | None:
    """The map of a node with several linear layers behind it that goes on no further."""
    found = maps.of(node.outputs[0]) if len(node.outputs) == 1 else None
    if found is None or len(found.linears) < 2:
        return None
    users = graph.users.get(node.output, ())
    goes_on = users and all(maps.of(user.outputs[0]) is not None for user in users)
    return None if goes_on and node.output not in graph.outputs else found


def _one_map(
    builder: Builder, graph: Graph, node: Node, found: LinearMap, largest: int, ctx: PassContext
) -> Value | None:
    """The composition as one op; a refusal becomes a remark."""
    limit = _products(graph, found)
    if all(extent == 1 for extent in found.lead):
        rows = math.prod(found.view[:-1])
        if rows * found.shape[-2] * found.shape[-1] >= limit:
            return None  # such as a low-rank pair
        return _as_linear(builder, node, found)
    reason = f"the composed map has {math.prod(found.shape)} elements, more than {largest}"
    if math.prod(found.shape) <= largest:
        result = _as_convolution(builder, node, found, limit)
        if isinstance(result, Value):
            return result
        reason = result
    message = f"{len(found.linears)} linear layers not composed: {reason}"
    ctx.remark(_CODE, message, node.loc)
    return None


def _products(graph: Graph, found: LinearMap) -> int:
    """Multiplications of the linear layers that the composition makes superfluous."""
    inside = [n for n in found.linears if found.nodes.issuperset(graph.users.get(n.output, ()))]
    last = [n for n in found.linears if n not in inside and not graph.users.get(n.output)]
    return sum(n.output.type.elements * n.inputs[1].shape[1] for n in (*inside, *last))


def _as_linear(builder: Builder, node: Node, found: LinearMap) -> Value:
    matrix = found.kernel.reshape(found.shape[-2:]).T
    weight = builder.constant(rounded(matrix, node.output.type.dtype), "composed")
    x = _viewed(builder, found.source, found.view)
    result = builder.emit(Linear(), x, weight, hint=node.output.hint)
    return _viewed(builder, result, node.output.shape)


def _as_convolution(builder: Builder, node: Node, found: LinearMap, limit: int) -> Value | str:
    """One convolution over the last axis; or the reason why not."""
    *others, channels = found.lead
    sources = found.view[-2] if len(found.view) > 1 else 1
    if any(extent != 1 for extent in others) or sources not in (1, channels):
        return "its kernel varies along several axes"
    noise = _NOISE.get(node.output.type.dtype, _NOISE_F32)
    found_taps = _filters(found.kernel.reshape(channels, *found.shape[-2:]), noise)
    if found_taps is None:
        return "it is not a convolution"
    taps, first = found_taps
    inputs, outputs = found.shape[-2:]
    padding = (first + taps.shape[1] - 1, outputs - inputs - first)
    if min(padding) < 0:
        return "it leaves out elements at the border"
    if node.output.type.elements * taps.shape[1] >= limit:
        return "the convolution would need more multiplications"
    image = _viewed(builder, found.source, (math.prod(found.view[:-2]), sources, inputs))
    weight = rounded(taps[:, None, ::-1].copy(), node.output.type.dtype)
    groups = channels if sources == channels else 1
    op = Conv((1,), (padding,), (1,), groups)
    filters = builder.constant(weight, "filters")
    result = builder.emit(op, image, filters, hint=node.output.hint)
    return _viewed(builder, result, node.output.shape)


def _filters(kernel: np.ndarray, noise: float) -> tuple[np.ndarray, int] | None:
    """([channel, distance], least distance) of kernels that depend on output - input alone."""
    _, inputs, outputs = kernel.shape
    distance = np.arange(outputs)[None, :] - np.arange(inputs)[:, None] + inputs - 1
    taps = np.zeros((kernel.shape[0], inputs + outputs - 1))
    for place in range(taps.shape[1]):
        taps[:, place] = kernel[:, distance == place].mean(axis=1)
    noise *= max(float(np.abs(kernel).max()), 1e-30)
    if np.abs(kernel - taps[:, distance]).max() > noise:
        return None
    kept = np.flatnonzero(np.abs(taps).max(axis=0) > noise)
    if not kept.size:
        return None
    return taps[:, kept[0] : kept[-1] + 1], int(kept[0]) - inputs + 1


def _viewed(builder: Builder, value: Value, shape: tuple[int, ...]) -> Value:
    return value if value.shape == shape else builder.emit(Reshape(shape), value, hint=value.hint)
