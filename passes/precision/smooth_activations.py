"""SmoothQuant: outliers of activations move into the weights that read them.

Xiao et al. 2023: behind a norm, channel j is divided by max|X_j|**alpha / max|W_j|**(1 - alpha),
in the norm's own weight and bias, and the layers that read it are multiplied. One scale per tensor
then fits the activations, and the weights have scales per output channel to bear it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optc.ir.graph import Graph, Node
from optc.ir.module import Module
from optc.ir.ops import LayerNorm, Linear, RmsNorm
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.precision.layers import Names
from optc.passes.precision.rescaling import LEFT, SCALED, Floats, floats, is_known, with_numbers

SETTLED = 1e-3  # a norm whose factors are closer to 1 is left alone
LEAST = 1e-5  # of the largest: what a channel or a weight counts as at least


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Divide the channels behind layer and RMS norms by factors that the next layers take over.

    `alpha` is the share of the outliers that goes into the weights: 0 nothing, 1 all. Where other
    nodes than linear layers read the norm it stays as it is. Over the real numbers the function
    stays the same. Run before `quantize`.
    """

    name = "smooth-activations"
    effect = Effect.ROUNDING
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share between 0 and 1, not {self.alpha}")

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with scaled norms; remarks say which, and why others are not."""
        norms = {
            graph: [n for n in graph.nodes if isinstance(n.op, LayerNorm | RmsNorm)]
            for graph in module.graphs
        }
        chosen = {g: [n for n in nodes if _fits(g, n, ctx)] for g, nodes in norms.items()}
        wanted = {n.output: n.output.type.rank - 1 for nodes in chosen.values() for n in nodes}
        if not wanted:
            return module
        seen = ctx.needed_calibration(self.name).statistics(module, list(wanted), wanted)
        reach = {v: np.maximum(abs(found.least), abs(found.most)) for v, found in seen.items()}
        graphs = []
        for graph in module.graphs:
            changed: dict[tuple[Node, int], Floats] = {}
            for node in chosen[graph]:
                changed |= self._smoothed(graph, node, reach[node.output], ctx)
            graphs.append(with_numbers(graph, changed))
        return module.with_graphs(tuple(graphs))

    def _smoothed(
        self, graph: Graph, node: Node, reach: Floats, ctx: PassContext
    ) -> dict[tuple[Node, int], Floats]:
        readers = graph.users[node.output]
        weights = {reader: floats(graph, reader.inputs[1]) for reader in readers}
        largest = np.max([abs(weight).max(0) for weight in weights.values()], axis=0)
        live = (reach > LEAST * reach.max()) & (largest > LEAST * largest.max())
        ours, theirs = np.where(live, reach, 1.0), np.where(live, largest, 1.0)
        factor = ours**self.alpha / theirs ** (1 - self.alpha)
        size = np.log(factor[live]).mean() if live.any() else 0.0
        factor = np.where(live, factor / np.exp(size), 1.0)  # the size of the whole stays
        if abs(np.log(factor)).max(initial=0.0) < SETTLED:
            return {}
        places = range(1, len(node.inputs))
        changed = {(node, n): floats(graph, node.inputs[n]) / factor for n in places}
        changed |= {(reader, 1): weight * factor for reader, weight in weights.items()}
        before, after = (r.max() / np.median(r[live]) for r in (reach, reach / factor))
        names = ", ".join(Names.of(graph).name(reader) for reader in readers)
        ctx.remark(
            SCALED,
            f"{node.op.name} in front of {names} smoothed: its largest channel was {before:.3g} "
            f"times the median, now {after:.3g}",
            node.loc,
        )
        return changed


def _fits(graph: Graph, node: Node, ctx: PassContext) -> bool:
    reason = _refusal(graph, node)
    if reason is not None:
        ctx.remark(LEFT, f"{node.op.name} {node.output.hint} not smoothed: {reason}", node.loc)
    return reason is None


def _refusal(graph: Graph, node: Node) -> str | None:
    readers = graph.users.get(node.output, ())
    if node.output in graph.outputs or not all(
        isinstance(reader.op, Linear) and reader.inputs[0] is node.output for reader in readers
    ):
        return "others than linear layers read it"
    if not readers or len(node.inputs) < 2 or node.inputs[1].type.rank != 1:
        return "it has no weight for each channel"
    constants = (*node.inputs[1:], *(reader.inputs[1] for reader in readers))
    return None if is_known(graph, *constants) else "its weights, or its readers', are no constants"
