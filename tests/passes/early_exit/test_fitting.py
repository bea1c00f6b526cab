"""Fits that samples left out have chosen: right where the answer is known, and no wilder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.passes.early_exit.fitting import (
    PENALTIES,
    Array,
    Scale,
    best_fit,
    least_squares,
    log_losses,
    log_softmax,
    logistic,
    squared_losses,
)
from optc.passes.early_exit.heads import FEW, fit_head


def problem(samples: int, width: int, classes: int, told: int, seed: int) -> tuple[Array, Array]:
    """Features of which `told` say something about the labels; the labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, samples)
    x = draw.standard_normal((samples, width))
    x[:, :told] += np.random.default_rng(99).standard_normal((classes, told))[labels]
    return x, labels


def one_hot(labels: Array, classes: int) -> Array:
    return np.eye(classes)[labels]


def loss(scores: Array, labels: Array) -> float:
    return float(log_losses(scores, one_hot(labels, scores.shape[1])).mean())


@given(st.integers(2, 60), st.integers(1, 12), st.integers(2, 5), st.integers(0, 99))
@settings(max_examples=15)
def test_every_fit_is_the_least_of_its_penalty(
    samples: int, width: int, classes: int, seed: int
) -> None:
    """The gradient is zero there, and what is minimised is convex; least squares by another way."""
    x, labels = problem(samples, width, classes, 1, seed)
    targets = one_hot(labels, classes)
    for fit in logistic(x, targets, PENALTIES[:5]):
        wrong = (np.exp(log_softmax(fit(x))) - targets) / samples
        slopes = np.concatenate([(wrong.T @ x + fit.penalty * fit.weight).ravel(), wrong.sum(0)])
        assert np.abs(slopes).max() < 1e-3
    scores = x @ np.ones((width, classes)) + targets
    for fit in least_squares(x, scores, PENALTIES):
        rows = np.sqrt(fit.penalty * samples) * np.eye(width)
        a = np.block([[x, np.ones((samples, 1))], [rows, np.zeros((width, 1))]])
        b = np.concatenate([scores, np.zeros((width, classes))])
        wanted = np.linalg.lstsq(a, b, rcond=None)[0]
        assert np.allclose(fit.weight.T, wanted[:-1], atol=1e-6)
        assert np.allclose(fit.bias, wanted[-1], atol=1e-6)


@pytest.mark.parametrize(("told", "gain"), [(0, 1.0), (3, 0.2), (20, 0.0)])
def test_samples_left_out_choose_as_well_as_one_who_knows(told: int, gain: float) -> None:
    """Beside the penalty that is best on a thousand other samples."""
    x, labels = problem(160, 300, 4, told, 1)
    others, truth = problem(1000, 300, 4, told, 2)
    targets = one_hot(labels, 4)
    found = best_fit(x, targets, logistic, log_losses)
    lost = {fit.penalty: loss(fit(others), truth) for fit in logistic(x, targets, PENALTIES)}
    assert lost[found.penalty] == pytest.approx(loss(found(others), truth), abs=1e-2)
    assert loss(found(others), truth) < min(lost.values()) + 0.05
    assert loss(found(others), truth) < lost[1e-3] - gain


def test_many_samples_ask_for_little() -> None:
    x, labels = problem(4000, 20, 4, 20, 1)
    found = best_fit(x, one_hot(labels, 4), logistic, log_losses)
    others, truth = problem(4000, 20, 4, 20, 2)
    (weakest,) = logistic(x, one_hot(labels, 4), (1e-4,))
    assert found.penalty <= 0.1
    assert loss(found(others), truth) < loss(weakest(others), truth) + 0.01


def test_a_feature_that_hardly_varies_is_not_blown_up() -> None:
    """Its spread is rounding: a head that reads it answers something else in another precision."""
    x, labels = problem(200, 24, 3, 6, 1)
    x[:, 7:] *= 1e-6
    x[:, 7:] += 0.3
    head = fit_head(x, labels, one_hot(labels, 3))
    assert np.abs(head.weight).max() < 100
    rounded = x.astype(np.float16)
    moved = np.abs(head(rounded) - head(x)).max() / np.abs(head(x)).max()
    assert moved < 0.02


@given(st.integers(-12, 12), st.booleans())
@settings(max_examples=5)
def test_the_unit_of_features_makes_no_difference(power: int, many: bool) -> None:
    x, labels = problem(80, 10, 3, 4, 5)
    scores = np.random.default_rng(0).standard_normal((80, FEW + 1 if many else 3))
    taken = None if many else labels
    one, other = (fit_head(x * unit, taken, scores)(x * unit) for unit in (1.0, 2.0**power))
    assert np.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("samples", [1, 2, 3, 5])
def test_few_samples_are_fitted_too(samples: int) -> None:
    x, labels = problem(samples, 6, 3, 2, 0)
    fits: tuple[tuple[Callable, Callable], ...] = (  # type: ignore[type-arg]
        (logistic, log_losses),
        (least_squares, squared_losses),
    )
    for fitter, losses in fits:
        found = best_fit(Scale.of(x)(x), one_hot(labels, 3), fitter, losses)
        assert np.isfinite(found(x)).all()
