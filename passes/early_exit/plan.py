"""What `insert-exits` and `optc route` decided, for the reports: places, thresholds, a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optc.passes.early_exit.decision import Decision
from optc.passes.early_exit.thresholds import Policy, Prices, Trials


@dataclass(frozen=True, slots=True)
class PlannedExit:
    """One exit: where it is, what decides, and the share of test calls that left by it.

    `cost` is that of leaving here, as a share of the original model's.
    """

    name: str
    place: str
    threshold: float
    temperature: float
    share: float
    cost: float


@dataclass(frozen=True, slots=True)
class Point:
    """A policy on the test samples: its mean cost as a share of the original's, and its loss."""

    cost: float
    loss: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class ExitPlan:
    """All exits of a module; `curve` are the policies that were proposed, careful ones first.

    `method` is the bound that makes `budget` hold with a probability of at least 1 - `risk`.
    `end_loss` is what calls lose that take no exit: passes before this one lost it.
    """

    decision: Decision
    metric: str
    budget: float
    risk: float
    method: str
    samples: int
    heads: str
    exits: tuple[PlannedExit, ...]
    end_share: float
    end_cost: float
    curve: tuple[Point, ...]
    end_loss: float = 0.0

    @property
    def cost(self) -> float:
        """The expected cost as a share of the original's."""
        return next((point.cost for point in self.curve if point.chosen), 1.0)

    def metadata(self) -> Mapping[str, str]:
        """What the artifact keeps: how its thresholds are to be read."""
        return {"decision": self.decision.value, "exit_risk": f"{self.risk:g}"}


def curve(
    policies: Sequence[Policy], chosen: Policy, trials: Trials, prices: Prices
) -> tuple[Point, ...]:
    """Every policy on the trials, in the order of their cost from the whole model down."""
    whole = prices.until[-1]
    points = []
    for policy in dict.fromkeys((*policies, chosen)):
        cost, losses = policy.outcome(trials, prices)
        points.append(Point(float(cost.mean()) / whole, float(losses.mean()), policy == chosen))
    return tuple(sorted(points, key=lambda point: -point.cost))


def shares(policy: Policy, trials: Trials) -> list[float]:
    """The share of calls that leave by each exit, and that go to the end."""
    counts = np.bincount(policy.leaves(trials), minlength=len(policy.exits) + 1)
    return [float(count) / max(1, len(trials.scores)) for count in counts]
