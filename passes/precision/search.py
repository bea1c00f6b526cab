"""From prices to a plan that holds the budget: how much noise the user's metric bears.

The noise that a plan may add is found by bisection, each plan judged on the calibration part. The
last word is the held-out part's, with its confidence bound: the noisiest layers go back to what is
quieter, floats in the end, twice as many each time, until it passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optc.ir.module import Module
from optc.passes.precision.choices import Choice
from optc.passes.precision.prices import Prices
from optc.passes.precision.solver import Objective, merit, solved
from optc.passes.quality import Difference, Judge, Part, Verdict

STEPS = 7  # of the bisection, over four powers of ten of noise
REACH = 1e-4
QUIETER = 4.0  # a reverted layer's choice has at most this part of its noise

Choices = tuple[Choice, ...]


@dataclass
class Search:
    """Plans are a choice per layer; `module` makes the module of one."""

    prices: Prices
    objective: Objective
    judge: Judge
    budget: float
    module: Callable[[Choices], Module]
    calls: frozenset[int] | None  # of the calibration part, that plans are judged on
    _judged: dict[Choices, Difference] = field(default_factory=dict)

    @property
    def floats(self) -> Choices:
        """The plan that changes nothing."""
        return (Choice.FLOAT,) * len(self.prices.layers)

    def best(self) -> Choices:
        """The best plan by the objective that holds the budget on the calibration part."""
        loudest = solved(self.prices, self._all(), self.objective)
        if self._holds(loudest):
            return loudest
        high, low = self.prices.noise(loudest), REACH * self.prices.noise(loudest)
        found = solved(self.prices, low, self.objective)
        if not self._holds(found):
            return self.floats
        for _ in range(STEPS):
            middle = (high * low) ** 0.5
            plan = solved(self.prices, middle, self.objective)
            if self._holds(plan):
                found, low = plan, middle
            else:
                high = middle
        return found

    def checked(self, plan: Choices) -> tuple[Choices, Difference | None]:
        """The plan, with as many layers reverted as the held-out part demands.

        And what it loses there; None where nothing of the plan is left. `passes` says what a pass
        is.
        """
        count, reverted = 1, plan
        floor: Difference | None = None
        while any(choice is not Choice.FLOAT for choice in reverted):
            found = self.judge.compare(self.module(reverted), Part.HELD_OUT)
            if found.verdict(self.budget) is Verdict.HELD:
                return reverted, found
            if found.verdict(self.budget) is Verdict.OPEN and found.drop <= self.budget:
                floor = floor or self.judge.compare(self.module(self.floats), Part.HELD_OUT)
                if floor.verdict(self.budget) is not Verdict.HELD:
                    return reverted, found  # so few samples cannot tell even the source itself
            reverted = self._calmed(reverted, count)
            count *= 2
        return reverted, None

    def _calmed(self, plan: Choices, count: int) -> Choices:
        """The plan with the best much quieter choice for its loudest layers."""
        noise = [prices[c].noise for prices, c in zip(self.prices.layers, plan, strict=True)]
        order = sorted(range(len(plan)), key=lambda place: (-noise[place], place))
        for place in order[:count]:
            plan = min(
                (
                    (*plan[:place], choice, *plan[place + 1 :])
                    for choice, price in self.prices.layers[place].items()
                    if price.noise <= noise[place] / QUIETER
                ),
                key=lambda found: merit(self.prices, found, self.objective),
            )
        return plan

    def _all(self) -> float:
        return sum(max(price.noise for price in layer.values()) for layer in self.prices.layers)

    def _holds(self, plan: Choices) -> bool:
        if plan not in self._judged:
            self._judged[plan] = self.judge.compare(self.module(plan), Part.CALIBRATION, self.calls)
        found = self._judged[plan]
        return found.drop <= self.budget  # false for nan
