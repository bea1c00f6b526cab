"""What to remove: of each family the least important share, down to a width that kernels like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node
from optc.ir.module import Module
from optc.ir.ops import Attention, Conv, ConvTranspose, Gru, Linear, Lstm, MatMul
from optc.ir.targets.target import Arch, Target
from optc.passes.base import PassContext
from optc.passes.prune.coupling import Couplings, Family, Place, couplings
from optc.passes.prune.importance import SCORES, Criterion
from optc.passes.prune.separation import separated
from optc.passes.prune.surgery import Kept, remove
from optc.passes.prune.ties import Pin

GPU_ACCESS = 128  # bits: tensor cores read fragments whose rows are multiples of this


@dataclass(frozen=True, slots=True)
class Request:
    """What a pruning pass asks for. `heads` selects families of attention heads, or the others."""

    heads: bool
    ratio: float
    criterion: Criterion
    align: int | None
    seed: int

    @property
    def unit(self) -> str:
        """What a component is called."""
        return "heads" if self.heads else "channels"


def prune(module: Module, ctx: PassContext, request: Request) -> Module:
    """The module with the least important components of each family removed, and remarks why."""
    return module.with_graphs(tuple(_pruned(graph, ctx, request) for graph in module.graphs))


def _pruned(graph: Graph, ctx: PassContext, request: Request) -> Graph:
    kept = select(graph, ctx, request)
    result = remove(kept)
    return graph if result is kept.found.graph else result


def select(graph: Graph, ctx: PassContext, request: Request) -> Kept:
    """What is kept of a graph whose constants are `separated`; remarks say what goes and why."""
    graph = separated(graph)
    found, layers = couplings(graph), layers_of(graph)
    heads = head_places(graph)
    scores = SCORES[request.criterion](found, request.seed)
    removed = np.zeros(len(found.pin_of), dtype=bool)
    for family in found.families:
        layer = next((layers[place] for place in family.places if place in layers), None)
        if layer is None or heads.isdisjoint(family.places) == request.heads:
            continue
        if family.pin is not None:
            _stays(ctx, family, layer, request, _words(family.pin, layer))
            continue
        count = len(family.components)
        step = granule(found, family, request, ctx.target)
        if count == 1:
            _stays(ctx, family, layer, request, "they are coupled to one another")
            continue
        gone = removable(count, request.ratio, step)
        if not gone:
            _stays(ctx, family, layer, request, _too_few(count, request, step))
            continue
        order = np.argsort(scores[family.components], kind="stable")
        removed[family.components[order[:gone]]] = True
        text = f"{gone} of {count} {request.unit} of {layer.op.name} removed"
        ctx.remark("N0310", text, layer.loc)
    return Kept(found, removed)


def granule(found: Couplings, family: Family, request: Request, target: Target) -> int:
    """How many components together make a width that is a whole step of kernels."""
    constants = found.graph.constants
    places = [(value, axis) for value, axis in family.places if value in constants]
    dtype = next((v.type.dtype for v, _ in places if v.type.dtype.is_float), DType.F32)
    step = request.align or kernel_step(target, dtype)
    width = min(
        int((found.components(value, axis) == family.components[0]).sum()) for value, axis in places
    )
    return step // math.gcd(step, width)


def removable(count: int, ratio: float, granule: int) -> int:
    """How many of `count` may go: at most `ratio` of them, so that whole granules stay."""
    left = count - math.floor(count * ratio + 1e-9)
    return max(0, count - max(1, math.ceil(left / granule)) * granule)


def kernel_step(target: Target, dtype: DType) -> int:
    """Widths that are multiples of this leave no kernel with a remainder."""
    return GPU_ACCESS // dtype.bits if target.arch is Arch.CUDA else target.lanes(dtype)


def layers_of(graph: Graph) -> Mapping[Place, Node]:
    """The layers with weights, by the axis of their output whose width they decide."""
    table: dict[Place, Node] = {}
    for node in graph.nodes:
        channel = _channel(node, graph)
        if channel is not None:
            value = node.outputs[0]
            table[value, channel % value.type.rank] = node
    return table


def _channel(node: Node, graph: Graph) -> int | None:
    match node.op:
        case Conv() | ConvTranspose():
            channel = -1 if node.op.channels_last else 1
            return channel if node.inputs[1] in graph.constants else None
        case Linear() | MatMul():
            return -1 if node.inputs[1] in graph.constants else None
        case Lstm() | Gru():
            return -1
    return None


def head_places(graph: Graph) -> set[Place]:
    """Axes along which attention is computed side by side."""
    return {
        (value, value.type.rank - 3)
        for node in graph.nodes
        if isinstance(node.op, Attention | MatMul)
        and graph.constants.keys().isdisjoint(node.inputs)
        for value in (*node.inputs[:2], node.output)
        if value.type.rank >= 3
    }


def _too_few(count: int, request: Request, step: int) -> str:
    share = math.floor(count * request.ratio + 1e-9)
    return f"{share} fewer would be no multiple of {step}" if share else "the ratio asks for none"


def _words(pin: Pin, layer: Node) -> str:
    """The reason of a pin, and its place where that is another than the layer's."""
    here = (pin.loc.file, pin.loc.line) == (layer.loc.file, layer.loc.line)
    return pin.reason if here or not pin.loc else f"{pin.reason}, at {pin.loc}"


def _stays(ctx: PassContext, family: Family, layer: Node, request: Request, reason: str) -> None:
    width = len(family.components)
    text = f"{width} {request.unit if width > 1 else 'group'} of {layer.op.name} stay: {reason}"
    ctx.remark("N0311", text, layer.loc)
