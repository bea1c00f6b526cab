"""The bound keeps its promise on distributions it should find hardest, and is not useless."""

from __future__ import annotations

import numpy as np
import pytest

from optc.passes.early_exit.bounds import holds, needed

RISK = 0.05
DRAWS = 1000


def confirmed(lost: float, won: float, count: int, budget: float) -> float:
    """How often losses of 1, 0 and -1 with these probabilities are found to be within a budget."""
    draw = np.random.Generator(np.random.PCG64(7))
    chances = [lost, won, 1 - lost - won]
    rows = draw.choice([1.0, -1.0, 0.0], size=(DRAWS, count), p=chances)
    return float(np.mean([holds(row, budget, RISK) for row in rows]))


@pytest.mark.parametrize("count", [100, 500, 2000])
@pytest.mark.parametrize("won", [0.0, 0.01, 0.1])
def test_what_breaks_a_budget_is_rarely_confirmed(count: int, won: float) -> None:
    # The mean is exactly the budget: the hardest case that must still be refused. Three standard
    # errors of a share over the draws.
    assert confirmed(0.02 + won, won, count, 0.02) <= RISK + 3 * (RISK / DRAWS) ** 0.5


def test_what_holds_a_budget_is_confirmed_with_enough_samples() -> None:
    assert confirmed(0.004, 0.002, 2000, 0.01) > 0.9
    assert confirmed(0.03, 0.03, 8000, 0.01) > 0.9  # two answers in three that differ are no loss


def test_needed_is_where_perfect_samples_begin_to_be_enough() -> None:
    for budget in (0.005, 0.01, 0.05, 0.3):
        count = needed(budget, RISK)
        assert holds(np.zeros(count), budget, RISK)
        assert not holds(np.zeros(count - 1), budget, RISK)


def test_nan_nothing_and_no_budget_hold_nothing() -> None:
    assert not holds(np.array([0.0, np.nan]), 0.5, RISK)
    assert not holds(np.zeros(0), 0.5, RISK)
    assert not holds(np.zeros(100_000), 0.0, RISK)
    assert holds(np.ones(5), 1.0, RISK)
