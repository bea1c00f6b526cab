"""How much the loss depends on every weight: gradients of constants, streamed over data.

Without labels the loss of a classifier takes labels drawn from its own softmax, which makes the
mean square the diagonal of the Fisher information; that of another model is the product of its
output with a random direction, whose mean square is the diagonal of the Gauss-Newton matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from optc.backends.reference.dtypes import to_tensor
from optc.backends.reference.evaluate import run_graph
from optc.ir.constant import constant
from optc.ir.flow import ways_out
from optc.ir.graph import Graph, Value
from optc.ir.module import Module
from optc.passes.calibration import Batch, Batches, Importance


class LossKind(Enum):
    """How an output becomes one number."""

    CROSS_ENTROPY = "cross entropy with labels, or with labels drawn from the model's softmax"
    SQUARES = "mean squared distance from labels, or a random direction without them"


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of one output of a module."""

    output: str
    kind: LossKind
    seed: int = 0

    def of(self, output: Tensor, batch: Batch, call: int) -> Tensor:
        """A scalar, the mean over the batch; `call` seeds what is drawn.

        Labels that do not fit the kind are as good as none: they belong to a metric of the user's.
        """
        output = output.double() if output.dtype is torch.float64 else output.float()
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + call)
        labels = None if batch.labels is None else torch.from_numpy(np.array(batch.labels))
        if self.kind is LossKind.CROSS_ENTROPY:
            flat = output.reshape(-1, output.shape[-1])
            if labels is None or labels.numel() != len(flat) or labels.is_floating_point():
                labels = torch.multinomial(flat.detach().softmax(1), 1, generator=draw)
            return functional.cross_entropy(flat, labels.reshape(-1).long(), ignore_index=-100)
        if labels is not None and labels.shape == output.shape:
            return functional.mse_loss(output, labels.to(output.dtype))
        direction = torch.randn(output.shape, generator=draw, dtype=output.dtype)
        return (output * direction).sum() / (batch.size or 1)


def scores(
    module: Module, batches: Batches, constants: Collection[Value], kind: Importance, loss: Loss
) -> Mapping[Value, NDArray[np.float32]]:
    """The mean over calls of `kind` for every element of the constants, in their shapes."""
    sums = {value: torch.zeros(value.shape) for value in constants}
    calls = 0
    for products in _products(module, batches, constants, loss):
        for value, product in products.items():
            sums[value] += product.abs() if kind is Importance.FIRST else product**2
        calls += 1
    return {value: (total / max(calls, 1)).numpy() for value, total in sums.items()}


def joint_scores(
    module: Module,
    batches: Batches,
    sets: Mapping[tuple[Value, int], NDArray[np.int64]],
    loss: Loss,
) -> NDArray[np.float64]:
    """The mean over calls of the square of each set's sum of gradient times weight."""
    count = 1 + max((int(numbers.max()) for numbers in sets.values() if len(numbers)), default=-1)
    total = torch.zeros(count, dtype=torch.float64)
    constants = list(dict.fromkeys(value for value, _ in sets))
    calls = 0
    for products in _products(module, batches, constants, loss):
        sums = torch.zeros_like(total)
        for (value, axis), numbers in sets.items():
            if value in products and len(numbers):
                slices = products[value].double().movedim(axis, 0).reshape(len(numbers), -1)
                sums.index_add_(0, torch.from_numpy(np.ascontiguousarray(numbers)), slices.sum(1))
        total += sums**2
        calls += 1
    found: NDArray[np.float64] = (total / max(calls, 1)).numpy()
    return found


def _products(
    module: Module, batches: Batches, constants: Collection[Value], loss: Loss
) -> Iterator[Mapping[Value, Tensor]]:
    """Call by call, gradient times weight of those constants that the loss depends on."""
    stored = {value: item for graph in module.graphs for value, item in graph.constants.items()}
    leaves = {v: to_tensor(stored[v]).clone().requires_grad_() for v in constants}
    for call, batch in enumerate(batches):
        # An exit's head matters as much as the last: the loss is the mean over all ways out.
        errors = [loss.of(out, batch, call) for out in _call(module, batch, leaves, loss.output)]
        error = torch.stack(errors).mean()
        gradients: Sequence[Tensor | None] = [None] * len(leaves)
        if error.requires_grad:  # else nothing it depends on is asked for
            gradients = torch.autograd.grad(error, list(leaves.values()), allow_unused=True)
        yield {
            value: gradient.float() * leaf.detach().float()
            for (value, leaf), gradient in zip(leaves.items(), gradients, strict=True)
            if gradient is not None
        }


def _call(
    module: Module, batch: Batch, leaves: Mapping[Value, Tensor], output: str
) -> Iterator[Tensor]:
    """The output at every way out."""
    names = {state.name: to_tensor(state.initial) for state in module.states}
    for port in module.inputs:
        names[port.name] = to_tensor(
            constant(np.ascontiguousarray(batch.inputs[port.name]), port.type.dtype)
        )

    def run(graph: Graph, given: Sequence[Tensor]) -> Sequence[Tensor]:
        return run_graph(graph, given, instead=leaves)

    return (way.outputs[output] for way in ways_out(module, names, run))
