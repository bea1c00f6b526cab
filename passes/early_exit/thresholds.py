"""Which exits, with which thresholds: the cheapest that provably hold a budget.

One part of the calibration samples proposes policies, from careful to bold; the other part tests
them in that order and stops at the first that it cannot confirm. So the chosen policy breaks the
budget with a probability of at most `risk`, whatever the samples are drawn from (learn then test,
fixed sequence: Angelopoulos et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from optc.passes.early_exit.bounds import holds

Array = NDArray[Any]
NEVER = inf
PRICES = np.geomspace(1000.0, 0.3, 48)  # what a lost sample costs, in runs of the whole model
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)  # of the first policy's leavers
SWEEPS = 3  # over all exits, each time the best threshold of one beside the others'


@dataclass(frozen=True, slots=True)
class Trials:
    """What every exit would have done: arrays [calls, exits].

    `losses` are what a call's samples lose on average, if it leaves there; `end` is what they lose
    if it takes no exit: nothing where that is what losses are counted from.
    """

    scores: NDArray[np.float64]
    losses: NDArray[np.float64]
    end: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """The cost of reaching each exit and the end without heads, and of each exit's head.

    In any unit; `until` has one entry more than `head`.
    """

    until: tuple[float, ...]
    head: tuple[float, ...]

    def paths(self, exits: Sequence[int]) -> list[float]:
        """The cost of leaving by each of `exits`, and of the end, when these exits are there."""
        heads = np.cumsum([self.head[e] for e in exits])
        costs = [self.until[e] + heads[place] for place, e in enumerate(exits)]
        return [*costs, self.until[-1] + (heads[-1] if len(heads) else 0.0)]


@dataclass(frozen=True, slots=True)
class Policy:
    """The exits that are there, in order, and the threshold of each."""

    exits: tuple[int, ...]
    thresholds: tuple[float, ...]

    @property
    def used(self) -> Policy:
        """The same without exits that nothing leaves by: their heads cost and decide nothing."""
        pairs = zip(self.exits, self.thresholds, strict=True)
        kept = [(exit, threshold) for exit, threshold in pairs if threshold < NEVER]
        return Policy(tuple(exit for exit, _ in kept), tuple(threshold for _, threshold in kept))

    def leaves(self, trials: Trials) -> NDArray[np.int64]:
        """By which of `exits` each call leaves; their number for the end."""
        left = np.full(len(trials.scores), len(self.exits))
        for place in reversed(range(len(self.exits))):
            sure = trials.scores[:, self.exits[place]] >= self.thresholds[place]
            left[sure] = place
        return left

    def outcome(self, trials: Trials, prices: Prices) -> tuple[Array, Array]:
        """The cost and the loss of each call."""
        left = self.leaves(trials)
        rows = np.arange(len(left))
        columns = np.array([*self.exits, 0])[left]
        end = 0.0 if trials.end is None else trials.end
        losses = np.where(left == len(self.exits), end, trials.losses[rows, columns])
        return np.array(prices.paths(self.exits))[left], losses


def choose(
    fit: Trials, test: Trials, prices: Prices, most: int, budget: float, risk: float
) -> tuple[Policy | None, tuple[Policy, ...]]:
    """The cheapest confirmed policy with at most `most` exits, and all that were proposed.

    `fit` counts losses from the model as it is, `test` from what the budget is counted from. None
    where nothing cheaper than the whole model is confirmed.
    """
    proposed = propose(fit, prices, most, budget)
    least, best = prices.until[-1], None
    for cost, policy in confirmed(proposed, test, prices, budget, risk):
        if cost < least:
            least, best = cost, policy.used
    return best, proposed


def confirmed(
    proposed: Sequence[Policy], test: Trials, prices: Prices, budget: float, risk: float
) -> Iterator[tuple[float, Policy]]:
    """The policies before the first that cannot be confirmed, each with its mean cost."""
    for policy in proposed:
        cost, losses = policy.outcome(test, prices)
        if not holds(losses, budget, risk):
            return
        yield float(cost.mean()), policy


def propose(fit: Trials, prices: Prices, most: int, budget: float) -> tuple[Policy, ...]:
    """Policies with the best set of exits, those that lose least first."""
    smooth = Trials(fit.scores, _smoothed(fit))
    count = fit.scores.shape[1]
    sets = [s for size in range(1, min(most, count) + 1) for s in combinations(range(count), size)]
    families = [tuple(_family(fit, smooth, prices, exits)) for exits in sets]
    within = [min((c for c, loss, _ in f if loss <= budget / 2), default=inf) for f in families]
    if not families or min(within) == inf:
        return ()
    rows = sorted(families[int(np.argmin(within))], key=lambda row: (row[1], -row[0]))
    policies = [policy for _, _, policy in rows]
    careful = [_narrowed(policies[0], fit, share) for share in SHARES]
    return tuple(dict.fromkeys([*careful, *policies]))


def _narrowed(policy: Policy, fit: Trials, share: float) -> Policy:
    """The surest `share` of what leaves by each exit still leaves.

    Where no sample was lost on few, the first policy is as bold as it can be without a loss that
    was seen; one that is not confirmed would end the sequence before it began.
    """
    left = policy.leaves(fit)
    thresholds = list(policy.thresholds)
    for place, exit in enumerate(policy.exits):
        scores = np.sort(fit.scores[left == place, exit])
        if len(scores):
            index = min(int((1 - share) * len(scores)), len(scores) - 1)
            thresholds[place] = _between(scores[index], scores[index - 1] if index else -inf)
    return Policy(policy.exits, tuple(thresholds))


def _family(
    fit: Trials, smooth: Trials, prices: Prices, exits: tuple[int, ...]
) -> Iterator[tuple[float, float, Policy]]:
    """The cost, the expected loss and the policy for every price of a lost sample."""
    thresholds = [NEVER] * len(exits)
    for price in PRICES:
        for _ in range(SWEEPS):
            for place in reversed(range(len(exits))):
                thresholds[place] = _best(smooth, prices, exits, thresholds, place, float(price))
        policy = Policy(exits, tuple(thresholds))
        cost, losses = policy.outcome(smooth, prices)
        yield float(cost.mean()), float(losses.mean()), policy


def _best(
    smooth: Trials,
    prices: Prices,
    exits: tuple[int, ...],
    thresholds: list[float],
    place: int,
    price: float,
) -> float:
    """The threshold of one exit that is best for the calls that come to it."""
    paths = prices.paths(exits)
    before = Policy(exits[:place], tuple(thresholds[:place]))
    comes = before.leaves(smooth) == place
    behind = Policy(exits, (*[NEVER] * (place + 1), *thresholds[place + 1 :]))
    cost, losses = behind.outcome(smooth, prices)
    here = paths[place] + price * paths[-1] * smooth.losses[:, exits[place]]
    gain = (cost + price * paths[-1] * losses - here)[comes]
    scores = smooth.scores[comes, exits[place]]
    order = np.argsort(-scores, kind="stable")
    scores, total = scores[order], np.cumsum(gain[order])
    ends = np.append(scores[1:] < scores[:-1], True)  # equal scores leave together
    if not len(scores) or (total * ends).max() <= 0:
        return NEVER
    last = int(np.argmax(np.where(ends, total, -inf)))
    return _between(scores[last], scores[last + 1] if last + 1 < len(scores) else -inf)


def _between(above: float, below: float) -> float:
    """The number with the fewest digits between both, so that rounding decides nothing."""
    below = below if np.isfinite(below) else above - abs(above) * 1e-3 - 1e-6
    middle = (above + below) / 2
    for digits in range(7):
        short = round(middle, digits)
        if below < short < above:
            return short
    return float(np.float32(middle))


def _smoothed(fit: Trials) -> NDArray[np.float64]:
    """Losses as they are expected from the score: they fall as it grows (isotonic regression)."""
    found = np.empty_like(fit.losses)
    for place in range(fit.losses.shape[1]):
        order = np.argsort(fit.scores[:, place], kind="stable")
        found[order, place] = isotonic_regression(fit.losses[order, place], increasing=False).x
    return found
