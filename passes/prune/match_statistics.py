"""Batch-norm re-estimation for networks whose norms are folded: a scale and a bias per channel.

After pruning, channels have other means and variances than those the next layers were trained on;
measuring a batch norm's statistics anew brings them back (Li et al. 2020, EagleEye, section 3.3:
adaptive batch normalization). Norms are folded into the layers by the time passes of the user run,
so the layers themselves are scaled, which also works for those that never had a norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.prune.recovery import Floats, Layer, Mended, mended

SAME = 1e-3  # of the spread: a layer closer to the original is left alone
LEAST = 1e-6  # of the original's spread: a channel that varies less is not scaled


@dataclass(frozen=True)
class MatchStatistics(Pass):
    """Give each channel of a pruned module the mean and variance it has in the original.

    Every convolution and linear layer gets a scale and a bias per output channel, in order, from
    `calls` batches of the calibration part (0: all). No labels, no gradients. Nothing happens
    where no pass removed anything before.
    """

    name = "match-statistics"
    effect = Effect.LOSSY
    calls: int = 64

    def __post_init__(self) -> None:
        if self.calls < 0:
            raise ValueError(f"calls is not negative, as {self.calls} is")

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with scaled layers."""
        return mended(module, ctx, self.name, self.calls, _matched, sums=False)


def _matched(layer: Layer) -> Mended | str | None:
    mean, spread = _moments(layer, wanted=False)
    wanted_mean, wanted_spread = _moments(layer, wanted=True)
    largest = float(wanted_spread.max(initial=0.0))
    live = (spread > LEAST * largest) & (wanted_spread > LEAST * largest)
    scale = np.where(live, wanted_spread / np.where(live, spread, 1.0), 1.0)
    shift = wanted_mean - scale * mean
    off = np.abs(mean - wanted_mean).max(initial=0.0) / (largest or 1.0)
    if max(off, np.abs(scale - 1).max(initial=0.0)) < SAME:
        return None
    if not np.isfinite(scale).all() or not np.isfinite(shift).all():
        return "its outputs are not finite"
    weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    bias = scale * (0.0 if layer.bias is None else layer.bias) + shift
    scales = f"{scale.min():.2g} to {scale.max():.2g}"
    words = f"means were off by {off:.2g} of the spread, scales are {scales}"
    return Mended(weight, bias, words)


def _moments(layer: Layer, *, wanted: bool) -> tuple[Floats, Floats]:
    """Mean and standard deviation per channel over all calls."""
    rest = tuple(a for a in range(layer.node.outputs[0].type.rank) if a != layer.axis)
    first = second = np.zeros(layer.weight.shape[0])
    count = 0
    for array in layer.wanted() if wanted else layer.walk.results(layer.node):
        numbers = array.astype(np.float64)
        first = first + numbers.sum(rest)
        second = second + (numbers**2).sum(rest)
        count += numbers.size // max(1, len(first))
    mean = first / max(1, count)
    return mean, np.sqrt(np.maximum(second / max(1, count) - mean**2, 0.0))
