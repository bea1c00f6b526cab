"""From what calibration saw of a value to the range that integers should cover."""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from optc.passes.calibration import BINS, Statistics

Range = tuple[float, float]
_SHARES = np.linspace(1.0, 0.1, 91)  # of the observed range, that a narrower one may cover


class Observer(Enum):
    """How a range is chosen."""

    MINMAX = "minmax"  # all that was seen
    PERCENTILE = "percentile"  # all but the outermost share on either side
    MSE = "mse"  # the least sum of squared errors


def observed(found: Statistics, observer: Observer, outliers: float, levels: int) -> Range:
    """The range of a value that is to be cut into `levels`; `outliers` is a share, per side."""
    whole = float(found.least.min()), float(found.most.max())
    match observer:
        case Observer.MINMAX:
            return whole
        case Observer.PERCENTILE:
            low, high = found.percentile(100 * outliers), found.percentile(100 * (1 - outliers))
            return min(low, high), max(low, high)
        case Observer.MSE:
            return _least_error(found, whole, levels)


def _least_error(found: Statistics, whole: Range, levels: int) -> Range:
    """One bound is narrowed with the other in place, then the other, twice: nearly convex.

    Rounding adds step**2 / 12 for each element inside, a clipped one its distance squared. Zeros
    are exact: the bin that they share with what is too small to matter is left out.
    """
    width = 2 * found.reach / BINS
    centres = np.asarray(-found.reach + (np.arange(BINS) + 0.5) * width, np.float64)
    counts = found.counts.astype(np.float64)
    counts[BINS // 2] = 0.0
    above = _Tail(centres, counts)
    below = _Tail(-centres[::-1], counts[::-1])

    def best(ends: NDArray[np.float64], other: float, near: _Tail, far: _Tail) -> float:
        """The end with the least error, on the side of `near`, for a bound on the other side."""
        if ends[0] <= 0:
            return float(ends[0])
        (lost, clipped), (lost_far, clipped_far) = near.beyond(ends), far.beyond(np.array([other]))
        step = (ends + max(other, 0.0)) / (levels - 1)
        inside = counts.sum() - clipped - clipped_far
        return float(ends[np.argmin(lost + lost_far + inside * step**2 / 12)])

    low, high = whole
    for _ in range(2):
        high = best(whole[1] * _SHARES, -low, above, below)
        low = -best(-whole[0] * _SHARES, high, below, above)
    return low, high


class _Tail:
    """What clipping at an upper bound costs: sums over all that lies beyond it."""

    def __init__(self, centres: NDArray[np.float64], counts: NDArray[np.float64]) -> None:
        self._centres = centres
        moments = np.stack([counts, counts * centres, counts * centres**2])
        sums = moments[:, ::-1].cumsum(1)[:, ::-1]
        self._sums = np.concatenate([sums, np.zeros((3, 1))], axis=1)

    def beyond(self, bound: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The squared distances of what is beyond, and how much it is."""
        count, first, second = self._sums[:, np.searchsorted(self._centres, bound, side="right")]
        return np.maximum(second - 2 * bound * first + bound**2 * count, 0.0), count
