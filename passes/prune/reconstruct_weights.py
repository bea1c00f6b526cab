"""Least-squares reconstruction: each layer's weights again, from what is left of its inputs.

He, Zhang and Sun 2017 (channel pruning, sections 3.1 and 3.3): after channels are gone, the weights
that read the others are fitted so that the layer's outputs are the original's again, layer after
layer, each on the outputs of those before it. A ridge holds on to the weights as they are where the
samples say little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.prune.patches import inputs_at, outputs_at, places_of
from optc.passes.prune.recovery import Floats, Layer, Mended, mended

SAME = 1e-5  # of the output's energy: a layer that is off by less is left alone
ROWS = 8  # for each unknown of an output
LEAST = 4096  # rows, where there are as many


@dataclass(frozen=True)
class ReconstructWeights(Pass):
    """Fit the weights of a pruned module so that its layers compute what the original's do.

    Linear least squares per layer, in order, on `calls` batches of the calibration part (0: all);
    `ridge` is the pull towards the weights as they are, as a share of the mean square of what the
    layer reads. No labels, no gradients. Nothing happens where no pass removed anything before.
    """

    name = "reconstruct-weights"
    effect = Effect.LOSSY
    ridge: float = 0.1
    calls: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.calls < 0:
            raise ValueError(f"calls is not negative, as {self.calls} is")
        if not self.ridge >= 0:
            raise ValueError(f"ridge is not negative, as {self.ridge} is")

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with fitted layers."""
        return mended(module, ctx, self.name, self.calls, self._fitted, sums=True)

    def _fitted(self, layer: Layer) -> Mended | str | None:
        equations = _equations(layer, self.seed)
        before = equations.error(layer)
        if before < SAME:
            return None
        if not np.isfinite(before):
            return "its inputs or outputs are not finite"
        weight, bias = equations.solved(layer, self.ridge)
        new = Mended(weight, bias, "")
        after = equations.error(layer, new)
        words = f"{100 * before:.2g} % of the output's energy was lost, now {100 * after:.2g} %"
        return Mended(weight, bias, words)


@dataclass
class Equations:
    """Normal equations of a layer, group by group; the last unknown is the bias.

    `products` is [groups, K + 1, K + 1], `targets` [groups, K + 1, outputs of a group].
    """

    products: Floats
    targets: Floats
    energy: float = 0.0  # of the targets
    variance: float = 0.0  # of the targets, about each channel's mean
    rows: int = 0

    def error(self, layer: Layer, new: Mended | None = None) -> float:
        """Squares that are left of the targets' about their means, from 0 up."""
        weight = layer.weight if new is None else new.weight
        bias = layer.bias if new is None else new.bias
        unknown = _unknown(weight, bias, len(self.products))
        fit = np.einsum("gko,gkl,glo->", unknown, self.products, unknown, optimize=True)
        left = self.energy - 2 * float((unknown * self.targets).sum()) + float(fit)
        return max(left, 0.0) / (self.variance or 1.0)

    def solved(self, layer: Layer, ridge: float) -> tuple[Floats, Floats]:
        """Weights in the layer's shape, and the bias."""
        groups, count, _ = self.products.shape
        old = _unknown(layer.weight, layer.bias, groups)
        pull = np.zeros((groups, count))
        scale = np.trace(self.products[:, :-1, :-1], axis1=1, axis2=2) / max(1, count - 1)
        pull[:, :-1] = ridge * scale[:, None]
        pull += 1e-9 * (scale[:, None] + self.rows)  # what is never used stays as it is
        left = self.products + np.eye(count) * pull[:, :, None]
        right = self.targets + pull[:, :, None] * old
        found: Floats = np.linalg.solve(left, right).astype(np.float64, copy=False)
        weight: Floats = found[:, :-1].transpose(0, 2, 1).reshape(layer.weight.shape)
        return weight, found[:, -1].reshape(-1)


def _unknown(weight: Floats, bias: Floats | None, groups: int) -> Floats:
    """Weights and bias as [groups, K + 1, outputs of a group]."""
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)
    last = np.zeros(weight.shape[0]) if bias is None else bias
    return np.concatenate([matrix, last.reshape(groups, 1, -1)], 1)


def _equations(layer: Layer, seed: int) -> Equations:
    """Summed over calls; a call in which there are more rows than needed gives some of them."""
    node = layer.node
    groups = getattr(node.op, "groups", 1)
    unknowns = layer.weight[0].size + 1
    outputs = layer.weight.shape[0] // groups
    sums = Equations(np.zeros((groups, unknowns, unknowns)), np.zeros((groups, unknowns, outputs)))
    total = places_of(node)
    calls = list(layer.walk.at(node.inputs[0]))
    wanted = max(LEAST, ROWS * unknowns)
    size = min(total, -(-wanted // max(1, len(calls))))
    draw = np.random.default_rng(seed)
    first = np.zeros(layer.weight.shape[0])
    for x, y in zip(calls, layer.wanted(), strict=True):
        places = draw.permutation(total)[:size] if size < total else np.arange(total)
        rows = inputs_at(node, x, places).astype(np.float32)
        rows = np.concatenate([rows, np.ones((*rows.shape[:2], 1), rows.dtype)], 2)
        rows = rows.transpose(1, 0, 2)  # [groups, rows, K + 1]
        truth = outputs_at(y, layer.axis, places).astype(np.float32)
        parts = truth.reshape(len(places), groups, outputs).transpose(1, 0, 2)
        sums.products += rows.transpose(0, 2, 1) @ rows
        sums.targets += rows.transpose(0, 2, 1) @ parts
        wide = truth.astype(np.float64)
        sums.energy += float((wide**2).sum())
        first += wide.sum(0)
        sums.rows += len(places)
    sums.variance = sums.energy - float((first**2).sum()) / max(1, sums.rows)
    return sums
