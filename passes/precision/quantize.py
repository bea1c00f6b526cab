"""Static 8-bit quantization after training: what calibration saw becomes scales and zeros.

Weights are symmetric with a scale per output channel, activations have one scale and zero per
tensor (Jacob et al. 2018; Krishnamoorthi 2018, section 3). The result computes in floats what
integers will compute; `integerize` makes the integers of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.cost import total
from optc.ir.graph import Graph, Node
from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.precision.layers import Names
from optc.passes.precision.observe import Observer
from optc.passes.precision.quantization import Keep, Quantization, Ranging, learn, whole

REFUSED, DONE = "N0330", "N0331"


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
        ranging = Ranging(self.observer, self.outliers, self.power_of_two)
        graphs = [
            Quantization(graph, self.kept(graph), ctx.target.activations, ranging)
            for graph in module.graphs
        ]
        if any(graph.unseen() for graph in graphs):
            learn(graphs, module, ctx.needed_calibration(self.name))
        ctx.lineage.begin(module)
        return module.with_graphs(tuple(_result(graph, ctx) for graph in graphs))

    def kept(self, graph: Graph) -> Keep:
        """Why layers that integers could compute stay as they are."""
        names = Names.of(graph)

        def reason(node: Node) -> str | None:
            kept = names.matches(node, self.keep_float)
            return None if kept is None else f"keep_float={kept}"

        return reason


def _result(found: Quantization, ctx: PassContext) -> Graph:
    """The graph in integers, and remarks on what stays."""
    names = Names.of(found.graph)
    for node, reason in found.reasons.items():
        message = f"{node.op.name} {names.name(node)} stays in floats: {reason}"
        ctx.remark(REFUSED, message, node.loc)
    if not found.layers:
        return found.graph
    done, all_ = total(found.layers).flops, total([*found.layers, *found.reasons]).flops
    message = (
        f"{len(found.layers)} of {len(found.layers) + len(found.reasons)} layers quantized to "
        f"{found.dtype}, weights i8: {100 * done / max(all_, 1):.1f} % of their operations"
    )
    ctx.remark(DONE, message)
    graph = found.result()
    ctx.lineage.follow(found.became, whole)
    return graph
