"""What a graph's nodes take, roughly: the roofline of a target, for choices among paths.

Only ratios are used. A kernel is bound by multiply-adds or by bytes from the cache
(Williams et al. 2009), and starting one costs something, which is what small models feel.
"""

from __future__ import annotations

from collections.abc import Iterable

from optc.ir.cost import compute_dtype, cost
from optc.ir.graph import Graph, Node
from optc.ir.ops import CONTRACTION
from optc.ir.ops.reduction import Reduce
from optc.ir.targets.target import Target

CLOCK = 3e9  # cycles a second
UNITS = 2  # fused multiply-add units of a core
BYTES = 16  # that a core moves to and from its second cache in a cycle
START = 1.5e-6  # seconds to start a kernel on all threads
CALL = 2e-8  # seconds to call one: what kernels take that have next to nothing to do (Zen 5)


def seconds(node: Node, target: Target) -> float:
    """The time of one node; ops that fuse into others start no kernel.

    What one core does before all of them could be woken runs on one, and wakes nobody.
    """
    price = cost(node)
    cores = max(1, target.cores)
    flops = 2 * UNITS * target.lanes(compute_dtype(node))
    alone = max(price.flops / flops, price.bytes / BYTES) / CLOCK
    starts = isinstance(node.op, (*CONTRACTION, Reduce))
    return CALL + min(alone / cores + START, alone) if starts else alone / cores


def total(nodes: Iterable[Node], target: Target) -> float:
    """The time of several nodes, one after the other."""
    return sum(seconds(node, target) for node in nodes)


def work(graphs: Iterable[Graph]) -> int:
    """Operations of graphs: what a report can say without a clock."""
    return sum(cost(node).flops for graph in graphs for node in graph.nodes)
