"""Confidence intervals from running sums, so that nothing is kept per sample.

A metric is a ratio of sums over samples, sum(x) / sum(y): for an accuracy x is 0 or 1 and y is 1;
for a perplexity x is a sample's log-loss and y its tokens, since tokens of one sample are not
independent and the sample is what varies.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from optc.passes.quality import Interval

LEVEL = 0.95
Z = 1.959963984540054  # of a normal distribution, two-sided 95 %


@dataclass
class Sums:
    """Running sums over samples of x and y, and whether x ever was anything but a count."""

    n: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    whole: bool = True  # every x is -1, 0 or 1 and every y is 1

    def add(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """More samples; x and y have shape (samples,)."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.n += len(x)
        self.x += float(x.sum())
        self.y += float(y.sum())
        self.xx += float(x @ x)
        self.yy += float(y @ y)
        self.xy += float(x @ y)
        self.whole &= bool(np.isin(x, (-1.0, 0.0, 1.0)).all() and (y == 1.0).all())

    @property
    def ratio(self) -> float:
        """sum(x) / sum(y)."""
        return self.x / self.y if self.y else float("nan")


def proportion(sums: Sums) -> Interval:
    """Wilson's score interval (1927) of a share of samples; x is 0 or 1."""
    n, p = sums.n, sums.ratio
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return Interval(max(0.0, middle - half), min(1.0, middle + half), "Wilson")


def mean(sums: Sums, least: float = -inf, most: float = inf) -> Interval:
    """Student's t interval of a ratio of sums, its variance by linearisation (Cochran 1977)."""
    name = "Student's t on samples"
    if sums.n < 2 or not sums.y:
        return Interval(least, most, name)
    ratio = sums.ratio
    residual = max(0.0, sums.xx - 2 * ratio * sums.xy + ratio * ratio * sums.yy)
    error = sqrt(sums.n / (sums.n - 1) * residual) / abs(sums.y)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, sums.n - 1)) * error
    return Interval(max(least, ratio - half), min(most, ratio + half), name)


def paired_proportions(sums: Sums) -> Interval:
    """Of the difference of two shares on the same samples (Bonett and Price 2012).

    x is 1 where only the first model was right, -1 where only the second was, else 0: as in
    McNemar's test, samples on which both agree carry no news.
    """
    n = sums.n
    first, second = (sums.xx + sums.x) / 2, (sums.xx - sums.x) / 2
    p, q = (first + 1) / (n + 2), (second + 1) / (n + 2)
    half = Z * sqrt(max(0.0, p + q - (p - q) ** 2) / (n + 2))
    return Interval(max(-1.0, p - q - half), min(1.0, p - q + half), "paired, Bonett-Price")
