"""The split into calibration and held-out samples, by index alone.

Of every ten consecutive samples a seeded draw gives three, or as many as asked, to calibration. So
the number of samples need not be known, data sorted by class is split evenly, and a sample's part
never depends on how the data is batched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.diagnostics import error
from optc.passes.quality import Part

STRATUM = 10


def tenths(share: float) -> int:
    """A share as a number of every ten samples; raises E0703 for what is none of 0.1 to 0.9."""
    found = round(share * STRATUM)
    if abs(share * STRATUM - found) > 1e-6 or not 1 <= found < STRATUM:
        raise error(
            "E0703",
            f"passes learn from 10 %, 20 %, to 90 % of the samples, not from {100 * share:g} %",
            help="--calibration-share 50%, or a set of its own: --calibration-data calib.npz",
        )
    return found


@dataclass(frozen=True, slots=True)
class Split:
    """`calibration` of every ten samples are for calibration, the others are held out.

    0 and 10 are for a set that stands beside another, and for samples that are judged elsewhere.
    """

    seed: int = 0
    calibration: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.calibration <= STRATUM:
            raise ValueError(f"calibration is 0 to {STRATUM} of {STRATUM}, not {self.calibration}")

    def mask(self, start: int, count: int, part: Part) -> NDArray[np.bool_]:
        """Which of the samples `start` to `start + count` are in the part."""
        if part is Part.ALL:
            return np.ones(count, np.bool_)
        first, last = start // STRATUM, -(-(start + count) // STRATUM)
        strata = [self._stratum(index) for index in range(first, last)]
        chosen = np.concatenate([np.zeros(0, np.bool_), *strata])
        inside = chosen[start - first * STRATUM :][:count]
        return inside if part is Part.CALIBRATION else ~inside

    def _stratum(self, index: int) -> NDArray[np.bool_]:
        draw = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        ranks: NDArray[Any] = draw.permutation(STRATUM)
        return ranks < self.calibration
