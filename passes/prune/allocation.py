"""Which family gives how much: the least loss at the multiply-adds that an even share would leave.

An even ratio takes as much from a narrow stream that everything reads as from a wide layer half of
which says nothing. Here widths shrink a granule at a time, each time where the loss for each saved
multiply-add is least, until no more are left than an even ratio leaves (a greedy descent on the
rate-distortion curves of the families; He et al. 2018, AMC, learn such ratios).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from optc.ir.cost import total
from optc.ir.graph import Node
from optc.ir.ops import Conv, ConvTranspose, Linear, MatMul
from optc.passes.prune.coupling import Couplings
from optc.passes.prune.layers import layers_of

Floats = NDArray[np.float64]


class Spread(Enum):
    """How the share that goes is spread over families."""

    EVEN = "even"  # of each the same
    LOSS = "loss"  # of each as much as costs little


@dataclass(frozen=True, slots=True)
class Supply:
    """What a family can give: `loss` after one, two, ... components; `gone` are the counts that it
    may, in order, `even` what the ratio asks for. Without such counts it gives what is even.
    """

    components: NDArray[np.int64]
    loss: Floats
    gone: tuple[int, ...]
    even: int

    def best(self, now: int) -> float:
        """The least loss for each component, of all steps further than `now`; inf without one."""
        counts = np.array([count for count in self.gone if count > now], np.int64)
        if not len(counts):
            return float("inf")
        before = self.loss[now - 1] if now else 0.0
        return float(((self.loss[counts - 1] - before) / (counts - now)).min())

    def last(self, now: int) -> tuple[float, int]:
        """What the last step cost for each component, and how many were gone before it."""
        if not self.gone or not now:
            return 0.0, now
        before = max((count for count in self.gone if count < now), default=0)
        cost = self.loss[now - 1] - (self.loss[before - 1] if before else 0.0)
        return float(cost) / (now - before), before


def spread(found: Couplings, supplies: Sequence[Supply]) -> list[int]:
    """How many components of each family go."""
    work = Work(found, [supply.components for supply in supplies])
    target = work.left([supply.even for supply in supplies])
    gone = [0 if supply.gone else supply.even for supply in supplies]
    while work.left(gone) > target:
        saved = work.each(gone)
        prices = [
            supply.best(now) / each if each > 0 else float("inf")
            for supply, now, each in zip(supplies, gone, saved, strict=True)
        ]
        chosen = int(np.argmin(prices))
        if not np.isfinite(prices[chosen]):
            break
        gone[chosen] = min(count for count in supplies[chosen].gone if count > gone[chosen])
    return _returned(supplies, gone, work, target)


def _returned(supplies: Sequence[Supply], gone: list[int], work: Work, target: float) -> list[int]:
    """The last step went too far as a rule: the dearest last steps that fit come back."""
    last = [supply.last(now) for supply, now in zip(supplies, gone, strict=True)]
    for number in np.argsort([-price for price, _ in last]).tolist():
        fewer = [*gone[:number], last[number][1], *gone[number + 1 :]]
        if work.left(fewer) <= target:
            gone = fewer
    return gone


class Work:
    """Multiply-adds of a graph's layers: of each its own times what is left of its two sides."""

    def __init__(self, found: Couplings, families: Sequence[NDArray[np.int64]]) -> None:
        self.counts = np.array([len(components) for components in families], np.float64)
        owner = np.full(len(found.pin_of), len(families))
        for number, components in enumerate(families):
            owner[components] = number
        layers = layers_of(found.graph).items()
        made = [found.components(*place) for place, _ in layers]
        read = [_read(found, node) for _, node in layers]
        self.work = np.array([float(total([node]).flops) for _, node in layers])
        self.sides = [np.array([_shares(owner, held) for held in side]) for side in (made, read)]

    def left(self, gone: Sequence[int]) -> float:
        """When so many of each family are gone."""
        made, read = (side @ self._kept(gone) for side in self.sides)
        return float((self.work * made * read).sum())

    def each(self, gone: Sequence[int]) -> Floats:
        """What one more component of each family saves, to first order."""
        (one, other), kept = self.sides, self._kept(gone)
        slope = (self.work * (other @ kept)) @ one + (self.work * (one @ kept)) @ other
        found: Floats = slope[:-1] / self.counts
        return found

    def _kept(self, gone: Sequence[int]) -> Floats:
        return np.append(1 - np.array(gone) / self.counts, 1.0)


def _read(found: Couplings, node: Node) -> NDArray[np.int64]:
    """The components of what a layer sums over; none for depthwise layers and lookups."""
    match node.op:
        case Conv() | ConvTranspose() | Linear() if node.inputs[1].shape[1] > 1:
            return found.components(node.inputs[1], 1)
        case MatMul():
            return found.components(node.inputs[1], node.inputs[1].type.rank - 2)
    return np.zeros(0, np.int64)


def _shares(owner: NDArray[np.int64], held: NDArray[np.int64]) -> Floats:
    """The share of each family in an axis, and last that of what stays; all stays of no axis."""
    last = int(owner.max(initial=0))
    found = np.bincount(owner[held], minlength=last + 1) / max(1, len(held))
    if not len(held):
        found[last] = 1.0
    shares: Floats = found
    return shares
