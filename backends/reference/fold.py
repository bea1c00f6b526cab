"""Constant folding's evaluator: a graph of constants in, constants out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from optc.backends.reference.dtypes import to_tensor
from optc.backends.reference.evaluate import run_graph
from optc.ir.constant import Constant, constant
from optc.ir.dtype import DType
from optc.ir.graph import Graph


def evaluate_constants(graph: Graph, inputs: Sequence[Constant]) -> tuple[Constant, ...]:
    """The graph's outputs for these inputs, as constants."""
    with torch.no_grad():
        results = run_graph(graph, [to_tensor(item) for item in inputs])
    pairs = zip(results, graph.outputs, strict=True)
    return tuple(_constant(tensor, value.type.dtype) for tensor, value in pairs)


def _constant(tensor: torch.Tensor, dtype: DType) -> Constant:
    tensor = tensor.detach().contiguous()
    if dtype is DType.BF16:
        return constant(tensor.view(torch.int16).numpy().view("uint16"), dtype)
    return constant(tensor.numpy(), dtype)
