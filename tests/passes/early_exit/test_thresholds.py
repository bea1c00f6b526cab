"""Policies: what they do, the best threshold against a search of all, and the promise they keep."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.passes.early_exit.thresholds import NEVER, Policy, Prices, Trials, choose, propose

PRICES = Prices((0.2, 0.5, 1.0), (0.01, 0.02))


def trials(count: int, seed: int, harm: float = 0.3) -> Trials:
    """Two exits whose losses are the rarer the higher the score."""
    draw = np.random.Generator(np.random.PCG64(seed))
    scores = draw.random((count, 2))
    lost = draw.random((count, 2)) < harm * (1 - scores) ** 2
    won = ~lost & (draw.random((count, 2)) < 0.02)
    return Trials(scores, lost.astype(float) - won)


@given(st.integers(0, 1 << 30), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40)
def test_a_policy_does_what_the_flow_does(seed: int, first: float, second: float) -> None:
    found = trials(30, seed)
    policy = Policy((0, 1), (first, second))
    costs, losses = policy.outcome(found, PRICES)
    for call, scores in enumerate(found.scores):
        if scores[0] >= first:
            wanted = (0.21, found.losses[call, 0])
        elif scores[1] >= second:
            wanted = (0.53, found.losses[call, 1])
        else:
            wanted = (1.03, 0.0)
        assert np.allclose((costs[call], losses[call]), wanted)


def test_never_is_the_whole_model() -> None:
    costs, losses = Policy((1,), (NEVER,)).outcome(trials(10, 0), PRICES)
    assert (costs == 1.02).all()
    assert (losses == 0).all()
    assert PRICES.paths(()) == [1.0]


def test_what_is_chosen_is_nearly_the_best_there_is() -> None:
    fit, test = trials(4000, 1), trials(4000, 2)
    policy, _ = choose(fit, test, PRICES, 2, 0.02, 0.05)
    assert policy is not None
    cost = policy.outcome(test, PRICES)[0].mean()
    grid = np.linspace(0, 1, 41)
    best = min(
        costs.mean()
        for a in grid
        for b in grid
        for costs, losses in [Policy((0, 1), (a, b)).outcome(test, PRICES)]
        if losses.mean() <= 0.02
    )
    assert cost <= best + 0.12  # the bound keeps some distance from the budget


def test_fewer_exits_where_fewer_are_allowed() -> None:
    fit, test = trials(3000, 1), trials(3000, 2)
    for policy in propose(fit, PRICES, 1, 0.02):
        assert len(policy.exits) == 1
    policy, _ = choose(fit, test, PRICES, 1, 0.05, 0.05)
    assert policy is not None
    assert len(policy.exits) == 1


def unsure(count: int, seed: int) -> Trials:
    """As `trials`, but the first exit's scores tell nothing of its losses."""
    draw = np.random.Generator(np.random.PCG64(seed))
    scores = draw.random((count, 2))
    lost = draw.random(count) < 0.03, draw.random(count) < 0.3 * (1 - scores[:, 1]) ** 2
    return Trials(scores, np.stack(lost, 1).astype(float))


def test_an_exit_that_nothing_leaves_by_is_none() -> None:
    fit, test = unsure(300, 54), unsure(400, 55)
    policy, proposed = choose(fit, test, PRICES, 2, 0.02, 0.05)
    assert policy is not None
    assert policy.exits == (1,)
    idle = next(p for p in proposed if p.thresholds == (NEVER, *policy.thresholds))
    old, new = idle.outcome(test, PRICES), policy.outcome(test, PRICES)
    assert (old[1] == new[1]).all()
    assert np.allclose(old[0] - new[0], PRICES.head[0])


def test_the_budget_holds_in_nineteen_of_twenty_seeds() -> None:
    """The mean loss on a very large sample is the truth; thresholds see small ones."""
    truth, broken, runs = trials(200_000, 99), 0, 40
    for seed in range(runs):
        policy, _ = choose(trials(300, 2 * seed), trials(700, 2 * seed + 1), PRICES, 2, 0.03, 0.05)
        if policy is not None:
            broken += policy.outcome(truth, PRICES)[1].mean() > 0.03
    assert broken <= 5  # of a binomial with 40 draws of 5 %: more is a chance of 1.4 %


def test_heads_that_are_wrong_are_not_used() -> None:
    fit, test = trials(2000, 1, harm=1.0), trials(2000, 2, harm=1.0)
    bad = (
        Trials(fit.scores, np.ones_like(fit.losses)),
        Trials(test.scores, np.ones_like(test.losses)),
    )
    assert choose(*bad, PRICES, 2, 0.01, 0.05)[0] is None
