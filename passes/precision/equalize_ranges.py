"""Cross-layer equalisation: channels of neighbouring layers get ranges of one size.

Nagel et al. 2019 ("Data-free quantization through weight equalization and bias correction",
section 4.1): where f(s * x) = s * f(x) for s > 0, a channel of one layer may be divided by s and
the weights of the next layer that read it multiplied. Weights that share a scale then lose less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import (
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    Linear,
    MaxPool,
    ReduceMax,
    ReduceMean,
    Reshape,
    ew,
)
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.precision.layers import Names
from optc.passes.precision.rescaling import LEFT, SCALED, Floats, floats, is_known, with_numbers

SWEEPS = 40
SETTLED = 1e-3  # a channel whose factor is closer to 1 is left alone
REACH = 2.0**12  # of a factor, either way
_HOMOGENEOUS = (ew.Relu, MaxPool, AvgPool, AdaptiveAvgPool, ReduceMean, ReduceMax)
_POOLS = (MaxPool, AvgPool, AdaptiveAvgPool)


@dataclass(frozen=True)
class EqualizeRanges(Pass):
    """Scale channels of convolutions and linear layers so that both sides have one range.

    For pairs of layers with nothing between them but ReLU, pooling and views; run before `quantize`
    or `quantize-weights`. Needs no data; over the real numbers the function stays the same.
    """

    name = "equalize-ranges"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with equalised layers; remarks say which, and why others are not."""
        return module.with_graphs(tuple(_equalised(graph, ctx) for graph in module.graphs))


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two layers; a channel of the first is an input of the second."""

    first: Node
    second: Node


def _equalised(graph: Graph, ctx: PassContext) -> Graph:
    pairs = list(_pairs(graph, ctx))
    weights = {n: floats(graph, n.inputs[1]) for pair in pairs for n in (pair.first, pair.second)}
    factors = {pair: np.ones(weights[pair.first].shape[0]) for pair in pairs}
    for _ in range(SWEEPS):
        steps = [_step(pair, weights, factors) for pair in pairs]
        if all(abs(np.log(step)).max(initial=0.0) < SETTLED for step in steps):
            break
    changed: dict[tuple[Node, int], Floats] = {}
    names = Names.of(graph)
    for pair, factor in factors.items():
        if abs(np.log(factor)).max(initial=0.0) < SETTLED:
            continue
        changed |= {(n, 1): weights[n] for n in (pair.first, pair.second)}
        if len(pair.first.inputs) > 2:
            changed[pair.first, 2] = floats(graph, pair.first.inputs[2]) / factor
        what = f"{names.name(pair.first)} and {names.name(pair.second)}"
        reach = f"{factor.min():.2g} to {factor.max():.2g}"
        ctx.remark(SCALED, f"{what} equalised: channels divided by {reach}", pair.first.loc)
    return with_numbers(graph, changed)


def _step(pair: _Pair, weights: dict[Node, Floats], factors: dict[_Pair, Floats]) -> Floats:
    """s = sqrt(r1 / r2), so that both ranges become sqrt(r1 * r2); applied, and returned."""
    one, two = weights[pair.first], weights[pair.second]
    depthwise = _is_depthwise(pair.second)
    rest = tuple(range(1, one.ndim))
    before = abs(one).max(rest)
    after = abs(two).max(tuple(a for a in range(two.ndim) if a != (0 if depthwise else 1)))
    live = (before > 0) & (after > 0)
    step: Floats = np.sqrt(np.where(live, before, 1.0) / np.where(live, after, 1.0))
    step = np.clip(step, 1 / REACH / factors[pair], REACH / factors[pair])
    weights[pair.first] = one / step.reshape(-1, *[1] * len(rest))
    along = (-1, 1) if depthwise else (1, -1)
    weights[pair.second] = two * step.reshape(*along, *[1] * (two.ndim - 2))
    factors[pair] = factors[pair] * step
    return step


def _pairs(graph: Graph, ctx: PassContext) -> Iterator[_Pair]:
    for node in graph.nodes:
        if not isinstance(node.op, Conv | Linear) or not _is_layer(graph, node):
            continue
        found = _next(graph, node)
        if isinstance(found, Node):
            yield _Pair(node, found)
        elif found:
            ctx.remark(LEFT, f"{Names.of(graph).name(node)} not equalised: {found}", node.loc)


def _next(graph: Graph, node: Node) -> Node | str | None:
    """The layer that reads a layer's channels, or why there is none; None at an output."""
    value, axis = node.output, _axis(node)
    while True:
        users = graph.users.get(value, ())
        if value in graph.outputs or not users:
            return None
        if len(users) > 1:
            return "several nodes read it"
        (user,) = users
        if isinstance(user.op, Conv | Linear) and user.inputs[0] is value:
            return _reader(graph, user, axis)
        moved = _through(user, value, axis)
        if isinstance(moved, str):
            return moved
        value, axis = user.output, moved


def _reader(graph: Graph, user: Node, axis: int) -> Node | str:
    if not _is_layer(graph, user):
        return f"the weights of {user.op.name} are not constants of its own"
    if axis != (_axis(user) if isinstance(user.op, Conv) else user.inputs[0].type.rank - 1):
        return f"{user.op.name} reads its channels along another axis"
    return user


def _through(user: Node, value: Value, axis: int) -> int | str:
    """Where the channels are behind a node that keeps positive factors; or why it does not."""
    op = user.op
    if isinstance(op, Reshape):
        old, new = value.shape, user.output.shape
        whole = old[: axis + 1] == new[: axis + 1] and len(new) > axis
        return axis if whole else "a view joins its channels with others"
    if not isinstance(op, _HOMOGENEOUS):
        return f"a factor does not pass {op.name}"
    if isinstance(op, ReduceMean | ReduceMax):
        if axis in op.axes:
            return "a mean is over its channels"
        return axis if op.keepdims else axis - sum(other < axis for other in op.axes)
    return axis


def _axis(node: Node) -> int:
    plain = isinstance(node.op, Conv) and not node.op.channels_last
    return 1 if plain else node.output.type.rank - 1


def _is_layer(graph: Graph, node: Node) -> bool:
    if isinstance(node.op, Conv) and node.op.groups > 1 and not _is_depthwise(node):
        return False
    return is_known(graph, *node.inputs[1:]) and node.output.type.elements > 0


def _is_depthwise(node: Node) -> bool:
    shape = node.inputs[1].shape
    return isinstance(node.op, Conv) and node.op.groups == shape[0] > 1 and shape[1] == 1
