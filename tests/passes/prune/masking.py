"""The oracle of pruning: the pruned graph computes what the original does with positions masked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from optc.backends.reference.evaluate import run_graph
from optc.backends.reference.masked import run_graph_masked
from optc.ir.graph import Graph, Value
from optc.passes.prune.coupling import Couplings
from optc.passes.prune.solution import FREE
from optc.passes.prune.surgery import Kept, remove


def some(found: Couplings, seed: int, share: float) -> Kept:
    """Remove each free component with probability `share`, but never all of an axis."""
    generator = np.random.default_rng(seed)
    count = len(found.pin_of)
    removed = (found.pin_of == FREE) & (generator.random(count) < share)
    for value in found.graph.values():
        for axis in range(value.type.rank):
            held = found.components(value, axis)
            if len(held) and removed[held].all():
                removed[held[0]] = False
    return Kept(found, removed)


def equals_masked(kept: Kept, inputs: Sequence[Tensor], tolerance: float) -> Graph:
    """Check one removal; returns the pruned graph."""
    graph = kept.found.graph
    pruned = remove(kept)
    with torch.no_grad():
        wanted = run_graph_masked(graph, inputs, kept.mask)
        small = [_left(item, value, kept) for item, value in zip(inputs, graph.inputs, strict=True)]
        ours = run_graph(pruned, small)
    for value, a, b in zip(graph.outputs, ours, wanted, strict=True):
        b = _left(b, value, kept)
        assert a.shape == b.shape, value
        if not a.is_floating_point():
            assert torch.equal(a, b), value
            continue
        scale = float(b[b.isfinite()].abs().max()) if b.isfinite().any() else 0.0
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance * max(scale, 1e-3), equal_nan=True
        )
    return pruned


def _left(item: Tensor, value: Value, kept: Kept) -> Tensor:
    for axis in range(value.type.rank):
        item = item.index_select(axis, torch.from_numpy(np.flatnonzero(kept.mask(value, axis))))
    return item
