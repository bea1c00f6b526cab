"""Mending layers in order, each against the original: what recovery passes have in common.

The walk through the smaller module and the walk through the original go side by side, so that a
layer sees what those before it have become, and each node runs once for each call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from optc.ir.constant import Constant, from_floats, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Conv, Linear, ew
from optc.ir.types import TensorType
from optc.passes.base import PassContext
from optc.passes.calibration import Array, Walk
from optc.passes.lineage import Origin
from optc.passes.prune.patches import channel_axis

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of the smaller module: its weights, and what it should compute.

    Its output plus `beside`, where there is such a value, should be the original's `origin`.
    """

    node: Node
    weight: Floats
    bias: Floats | None
    origin: Origin
    beside: Value | None
    walk: Walk
    original: Walk

    @property
    def axis(self) -> int:
        """The axis of the output's channels."""
        return channel_axis(self.node)

    def wanted(self) -> Iterator[Array]:
        """The output that each call should have."""
        others = self.walk.at(self.beside) if self.beside is not None else None
        for array in self.original.at(self.origin.value):
            kept = array[np.ix_(*self.origin.kept)]
            yield kept if others is None else kept - next(others)


@dataclass(frozen=True, eq=False)
class Mended:
    """New numbers for a layer, and a few words on what they gain."""

    weight: Floats
    bias: Floats
    words: str


# New numbers for a layer, or why it keeps those it has; None where nothing is wrong with it.
Mend = Callable[[Layer], Mended | str | None]


def mended(
    module: Module, ctx: PassContext, asked_by: str, calls: int, mend: Mend, *, sums: bool
) -> Module:
    """The module with each layer mended in order; remarks N0313 and N0314 say what came of it.

    `sums`: a layer whose output is added to a shortcut is judged by the sum, which also makes up
    for what was lost on the shortcut (He, Zhang and Sun 2017, section 3.3).
    """
    original = ctx.lineage.original
    if original is None or original is module:
        return module
    layers = [node for graph in module.graphs for node in graph.nodes if _is_layer(node, graph)]
    if not layers:
        return module
    calibration = ctx.needed_calibration(asked_by)
    known = {value for graph in original.graphs for value in graph.values()}
    targets = {ctx.lineage.origin(v).value for g in module.graphs for v in g.values()} & known
    walk = calibration.walk(module, (), calls)
    beside = calibration.walk(original, _near(layers, module, ctx, targets), calls)
    if walk is None or beside is None:
        ctx.remark("N0314", f"{asked_by}: the model runs more than one graph; mend it before that")
        return module
    (graph,) = module.graphs
    for node in layers:
        layer = _layer(node, graph, walk, beside, ctx, targets, sums=sums)
        found = mend(layer) if isinstance(layer, Layer) else layer
        if isinstance(found, str):
            ctx.remark("N0314", f"{node.op.name} stays as it is: {found}", node.loc)
        elif found is not None:
            new, constants = _rebuilt(node, found)
            walk.replace(node, new, constants)
            ctx.remark("N0313", f"{node.op.name} mended: {found.words}", node.loc)
        if isinstance(layer, Layer):
            beside.drop(layer.origin.value)
    return module.with_graphs((walk.graph,))


def _is_layer(node: Node, graph: Graph) -> bool:
    return isinstance(node.op, Linear | Conv) and node.inputs[1] in graph.constants


def _near(
    layers: Collection[Node], module: Module, ctx: PassContext, targets: Collection[Value]
) -> set[Value]:
    """The values of the original that some layer is compared with."""
    near = set()
    for graph in module.graphs:
        for node in layers:
            after = [n.output for n in graph.users.get(node.output, ()) if isinstance(n.op, ew.Add)]
            near |= {ctx.lineage.origin(value).value for value in (node.output, *after)}
    return near & set(targets)


def _layer(
    node: Node,
    graph: Graph,
    walk: Walk,
    original: Walk,
    ctx: PassContext,
    targets: Collection[Value],
    *,
    sums: bool,
) -> Layer | str:
    weights = node.inputs[1:]
    if any(graph.constants[value].type.dtype not in (DType.F32, DType.F64) for value in weights):
        return "its weights are no floats of 32 or 64 bits"
    if any(len(graph.users[value]) > 1 for value in weights):
        return "its weights are shared with another layer"
    if node.inputs[0] in graph.constants:
        return "its input is a constant"
    walk.until(node.inputs[0])
    target, beside = _sum(node, graph, walk) if sums else (node.output, None)
    if ctx.lineage.origin(target).value not in targets:
        target, beside = node.output, None
    origin = ctx.lineage.origin(target)
    if origin.value not in targets:
        return "the original has no such layer"
    original.until(origin.value)
    numbers = [to_floats(graph.constants[value]).astype(np.float64) for value in weights]
    bias = numbers[1] if len(numbers) > 1 else None
    return Layer(node, numbers[0], bias, origin, beside, walk, original)


def _sum(node: Node, graph: Graph, walk: Walk) -> tuple[Value, Value | None]:
    """The sum that a layer's output goes into, and the other term, if that is there already."""
    users = graph.users.get(node.output, ())
    if len(users) == 1 and isinstance(users[0].op, ew.Add) and node.output not in graph.outputs:
        others = [value for value in users[0].inputs if value is not node.output]
        if others and others[0].type == node.output.type and walk.has(others[0]):
            return users[0].output, others[0]
    return node.output, None


def _rebuilt(node: Node, found: Mended) -> tuple[Node, dict[Value, Constant]]:
    """The node with new weights; a bias joins where there was none."""
    old = node.inputs[1]
    weight = Value(old.type, old.hint)
    hint = node.inputs[2].hint if len(node.inputs) > 2 else "bias"
    bias = Value(TensorType((old.shape[0],), old.type.dtype), hint)
    constants = {
        weight: from_floats(found.weight, old.type.dtype),
        bias: from_floats(found.bias, old.type.dtype),
    }
    return replace(node, inputs=(node.inputs[0], weight, bias)), constants
