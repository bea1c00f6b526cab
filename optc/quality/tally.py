"""Running results of a metric: of one model, and of two models on the same samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.passes.quality import Better, Difference, Interval, Quality, Scale
from optc.quality.intervals import Sums, mean, paired_proportions, proportion
from optc.quality.metrics import F1, IGNORED, Against, Array, Metric

Rows = tuple[Array, Array]  # x and y of a metric, one entry a sample
RESAMPLES = 1000
SEED = 20240229


@dataclass
class Tally:
    """One model's result so far, and the difference to another where both are added together.

    Memory does not grow with samples.
    """

    metric: Metric
    own: Sums = field(default_factory=Sums)
    other: Sums = field(default_factory=Sums)  # the original
    apart: Sums = field(default_factory=Sums)  # what the candidate loses, sample by sample
    cells: Counter[tuple[int, int, int]] = field(default_factory=Counter)  # of F1

    def add(self, rows: Rows, original: Rows | None = None) -> None:
        """More samples: of the candidate, and of the original on the same ones."""
        (x, y), before = rows, original
        if isinstance(self.metric, F1):
            self._add_cells(x, y, x if before is None else before[0])
            return
        self.own.add(x, y)
        if before is None:
            return
        self.other.add(*before)
        worse = before[0] - x if self.metric.improves is Better.HIGHER else x - before[0]
        relative = self.metric.scale is Scale.RELATIVE and not self._is_loss
        self.apart.add(worse, before[0] if relative else y)

    @property
    def _is_loss(self) -> bool:
        return self.metric.value(0.0) == 1.0  # perplexity: a difference of logs is a ratio

    def quality(self) -> Quality:
        """The candidate's."""
        return self._quality(self.own, 1)

    def difference(self) -> Difference:
        """The candidate against the original."""
        after = self.quality()
        if self.metric.against is Against.ORIGINAL:
            return self._from_perfect(after)
        before = self._quality(self.other, 2)
        if isinstance(self.metric, F1):
            drops = self._resampled(2) - self._resampled(1)
            found = _percentiles(drops)
            if all(first == second for _, first, second in self.cells):
                # Nothing to resample: so far no sample differs, and the next one may.
                most = min(1.0, 3 / after.samples)
                found = Interval(-most, most, "rule of three")
            return Difference(before, after, before.value - after.value, found)
        if self._is_loss:
            bound, drop = mean(self.apart), self.apart.ratio
            low, high = np.expm1([bound.low, bound.high])
            found = Interval(float(low), float(high), bound.method)
            return Difference(before, after, float(np.expm1(drop)), found)
        exact = self.apart.whole and self.own.whole and self.metric.scale is Scale.POINTS
        found = paired_proportions(self.apart) if exact else mean(self.apart)
        return Difference(before, after, self.apart.ratio, found)

    def _from_perfect(self, after: Quality) -> Difference:
        """The original agrees with itself; what the candidate loses is what it lacks."""
        best = 0.0 if self.metric.improves is Better.LOWER else self.metric.bounds[1]
        exact = Interval(best, best, "by definition")
        before = Quality(after.metric, best, exact, after.samples, after.better, self.metric.scale)
        low, high = abs(best - after.interval.high), abs(best - after.interval.low)
        low, high = min(low, high), max(low, high)
        drop = abs(best - after.value)
        return Difference(before, after, drop, Interval(low, high, after.interval.method))

    def _quality(self, sums: Sums, column: int) -> Quality:
        metric = self.metric
        if isinstance(metric, F1):
            value, samples = self._f1(column), sum(self.cells.values())
            found = _percentiles(self._resampled(column))
        else:
            value, samples = metric.value(sums.ratio), sums.n
            if sums.whole and metric.bounds == (0.0, 1.0):
                found = proportion(sums)
            elif self._is_loss:
                bound = mean(sums)
                found = Interval(metric.value(bound.low), metric.value(bound.high), bound.method)
            else:
                found = mean(sums, *metric.bounds)
        return Quality(metric.label, value, found, samples, metric.improves, metric.scale)

    def _add_cells(self, predicted: Array, labels: Array, before: Array) -> None:
        kept = labels != IGNORED
        triples = np.stack([labels, predicted, before], 1)[kept].astype(np.int64)
        cells, counts = np.unique(triples, axis=0, return_counts=True)
        for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
            self.cells[tuple(cell)] += count

    def _table(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        ordered = sorted(self.cells.items())
        cells = np.array([cell for cell, _ in ordered], np.int64).reshape(-1, 3)
        return cells, np.array([count for _, count in ordered], np.float64)

    def _f1(self, column: int) -> float:
        cells, counts = self._table()
        assert isinstance(self.metric, F1)
        return float(f1_scores(cells[:, 0], cells[:, column], counts[None], self.metric.classes)[0])

    def _resampled(self, column: int) -> NDArray[np.float64]:
        """F1 of bootstrap samples; columns are resampled together, so differences are paired."""
        cells, counts = self._table()
        assert isinstance(self.metric, F1)
        draw = np.random.Generator(np.random.PCG64(SEED))
        total = int(counts.sum())
        drawn = draw.multinomial(total, counts / total, RESAMPLES).astype(np.float64)
        return f1_scores(cells[:, 0], cells[:, column], drawn, self.metric.classes)


def f1_scores(
    labels: NDArray[Any], predicted: NDArray[Any], counts: NDArray[np.float64], classes: int
) -> NDArray[np.float64]:
    """F1 of each row of `counts`, which say how often each pair of label and prediction occurred.

    For more than two classes the mean over those that occur, as scikit-learn's `macro`.
    """
    chosen = [1] if classes == 2 else range(classes)
    scores = np.full((len(counts), len(chosen)), np.nan)
    for place, number in enumerate(chosen):
        right = counts @ ((labels == number) & (predicted == number))
        both = counts @ ((labels == number).astype(np.float64) + (predicted == number))
        np.divide(2 * right, both, out=scores[:, place], where=both > 0)
    empty = np.isnan(scores).all(1)
    found = np.zeros(len(counts))
    found[~empty] = np.nanmean(scores[~empty], axis=1)
    return found


def _percentiles(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high), f"bootstrap, {RESAMPLES} resamples")
