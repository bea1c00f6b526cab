"""How sure one can be, from finitely many samples, that a mean loss is within a budget.

The test is a betting martingale (Waudby-Smith and Ramdas 2023, section 3): if the mean loss were
above the budget, a fortune that bets on it being below could only grow by luck, and reaches 1/risk
with a probability of at most `risk` (Ville 1939). It is right for every number of samples and every
distribution on [-1, 1], and nearly as sharp as a normal approximation where losses are rare.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_BET = 0.75  # of what would be lost with one loss of 1
MOST = 1 << 22  # samples that anyone might have
METHOD = "betting martingale (Waudby-Smith and Ramdas 2023), fixed sequence"


def holds(losses: NDArray[Any], budget: float, risk: float) -> bool:
    """Whether the mean of what `losses` were drawn from is at most `budget`, by a test of level
    `risk`; losses lie in [-1, 1] and come in random order. NaN never holds.
    """
    gains = (1.0 - losses.astype(np.float64)) / 2.0
    target = (1.0 - budget) / 2.0  # gains with a mean above this are within the budget
    if not len(gains) or not np.isfinite(gains).all():
        return False
    if target <= 0:
        return True  # a budget of 1 allows everything
    count = np.arange(1, len(gains) + 1)
    means = (0.5 + np.cumsum(gains)) / (count + 1)
    spread = (0.25 + np.cumsum((gains - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], spread[:-1]])  # a bet knows only what came before it
    bets = np.minimum(np.sqrt(2 * log(1 / risk) / (len(gains) * before)), LARGEST_BET / target)
    fortune = np.cumsum(np.log1p(bets * (gains - target)))
    return bool(fortune.max() >= log(1 / risk))


def needed(budget: float, risk: float) -> int:
    """Samples without which no test can hold: it takes as many where no sample loses anything."""
    low = high = 1
    while not holds(np.zeros(high), budget, risk):
        if high > MOST:
            return MOST
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(np.zeros(middle), budget, risk) else (middle + 1, high)
    return high
