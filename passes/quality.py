"""How good a module is on held-out data, and whether a budget holds: the values passes see.

A budget is judged on the difference between two models on the same samples, never on two intervals
side by side: most samples are right under both and say nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from math import isnan
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from optc.ir.module import Module


class Part(Enum):
    """The two parts of the user's data, which never share a sample; or all of it."""

    CALIBRATION = "calibration"  # what passes may look at as often as they like
    HELD_OUT = "held-out"  # what the verdict is given on
    ALL = "all"  # both, for a model that has learnt nothing from either


class Better(Enum):
    """Which way a metric improves."""

    HIGHER = "higher"
    LOWER = "lower"


class Scale(Enum):
    """What a drop of 1 % means."""

    POINTS = "points"  # 0.01 of the metric's own unit: 92 % to 91 %
    RELATIVE = "relative"  # a hundredth of the original's value: perplexity 32 to 32.32


class Verdict(Enum):
    """Whether a budget holds."""

    HELD = "held"
    BROKEN = "not held"
    OPEN = "cannot be told with so few samples"


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval and how it was made."""

    low: float
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class Quality:
    """A metric of one model on one part of the data."""

    metric: str
    value: float
    interval: Interval
    samples: int
    better: Better
    scale: Scale = Scale.POINTS

    def __str__(self) -> str:
        low, high = self.interval.low, self.interval.high
        return f"{self.metric} {self.value:.4g} ({low:.4g} to {high:.4g}, {self.samples} samples)"


@dataclass(frozen=True, slots=True)
class Difference:
    """What a candidate loses to the original on the same samples.

    `drop` and its interval are positive where the candidate is worse, in points (a fraction of 1
    for proportions) or relative to the original, as the metric's scale says.
    """

    before: Quality
    after: Quality
    drop: float
    interval: Interval

    def verdict(self, budget: float) -> Verdict:
        """HELD when the whole interval is within the budget, BROKEN when all of it is outside.

        A drop that is not a number is BROKEN: the candidate computes none.
        """
        if isnan(self.drop) or isnan(self.interval.low + self.interval.high):
            return Verdict.BROKEN
        if self.interval.high <= budget:
            return Verdict.HELD
        return Verdict.BROKEN if self.interval.low > budget else Verdict.OPEN

    def __str__(self) -> str:
        low, high = self.interval.low, self.interval.high
        unit = "points" if self.after.scale is Scale.POINTS else "% of the original"
        return f"{100 * self.drop:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}) {unit}"


class Judge(Protocol):
    """Measures candidates by the user's metric, or by agreement with the original model."""

    @property
    def metric(self) -> str:
        """The metric's name."""

    @property
    def budget(self) -> float | None:
        """The largest drop that the user accepts, in the unit of `Difference.drop`."""

    @property
    def output(self) -> str:
        """The output that the metric reads."""

    def losses(
        self, output: NDArray[Any], original: NDArray[Any], labels: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        """What each sample loses, -1 to 1, where `output` stands for the `original`'s [samples,
        ...]. Raises E0745 for a metric that is no mean of right answers.
        """

    def answers(self, part: Part) -> NDArray[Any]:
        """What the original answers in `output` to each call of a part: [calls, ...]."""

    def quality(self, module: Module, part: Part = Part.HELD_OUT) -> Quality:
        """The metric of a module whose inputs and outputs are those of the original."""

    def compare(
        self, module: Module, part: Part = Part.HELD_OUT, calls: Collection[int] | None = None
    ) -> Difference:
        """The module against the original, sample by sample; on some calls of the part, or all.

        Search on `Part.CALIBRATION`: a choice among many candidates that is made on the held-out
        part has spoilt it.
        """
