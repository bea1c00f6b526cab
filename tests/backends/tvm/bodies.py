"""Task bodies for tests of kernels, and the one way they are compared with the reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optc.backends.reference.evaluate import run_graph
from optc.ir.builder import Builder
from optc.ir.graph import Graph
from optc.ir.ops import Op
from optc.ir.types import TensorType

# Sums run in another order than torch's, over values of this share of the largest.
_SHARE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}


def body_of(op: Op, types: Sequence[TensorType]) -> Graph:
    """A graph of one node."""
    builder = Builder(op.name)
    inputs = [builder.input(type) for type in types]
    return builder.build(builder.emit_all(op, *inputs))


def check_against_reference(
    graph: Graph, inputs: Sequence[Tensor], found: Sequence[Tensor]
) -> None:
    """Raise AssertionError where `found` is not what the reference computes for a chain of ops."""
    for ours, wanted in zip(found, run_graph(graph, inputs), strict=True):
        share = _SHARE.get(wanted.dtype, 0.0)
        finite = wanted[torch.isfinite(wanted)]
        largest = float(finite.abs().max()) if finite.numel() else 0.0
        torch.testing.assert_close(
            ours, wanted, rtol=share, atol=share * max(1.0, largest), equal_nan=True
        )
