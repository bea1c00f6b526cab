"""Linear fits to features, whose penalty on weights is what samples that are left out ask for.

A head sees some hundred samples and up to a thousand features: fitted to the last it answers noise,
with weights so large that the rounding of a feature shows in its scores. Of penalties that do
equally well on samples left out, as far as these can tell, the strongest is taken (the rule of one
standard error: Breiman et al. 1984, section 3.4.3; here of the paired difference).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Array = NDArray[Any]
PENALTIES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # on squared weights of features of spread 1
FOLDS = 4
SEEN = 2000  # samples times folds from which on fewer folds tell enough: fits take seconds
FLAT = 1e-2  # of the features' typical spread: one that varies less is scaled as if by that


@dataclass(frozen=True, slots=True)
class Scale:
    """How features are brought to zero mean and spread 1.

    Rounding is of the size of all features: one that hardly varies is mostly that, and is not
    blown up to the size of the others.
    """

    middle: Array
    spread: Array

    @staticmethod
    def of(x: Array) -> Scale:
        """By the samples [samples, width] of a fit."""
        spread = x.std(0)
        least = FLAT * float(np.sqrt((spread**2).mean()))
        return Scale(x.mean(0), np.maximum(spread, least) if least > 0 else np.ones_like(spread))

    def __call__(self, x: Array) -> Array:
        """Features in that scale."""
        found: Array = (x - self.middle) / self.spread
        return found


@dataclass(frozen=True, slots=True)
class Fit:
    """Scores are `x @ weight.T + bias`, of scaled features; `penalty` is that of the fit."""

    weight: Array
    bias: Array
    penalty: float

    def __call__(self, x: Array) -> Array:
        """Scores [samples, classes]."""
        found: Array = x @ self.weight.T + self.bias
        return found


# Fits to features and targets, one for each of some penalties from strong to weak.
Fitter = Callable[[Array, Array, tuple[float, ...]], Iterator[Fit]]
# What each sample loses by scores beside its targets.
Losses = Callable[[Array, Array], Array]


def best_fit(x: Array, targets: Array, fitter: Fitter, losses: Losses) -> Fit:
    """The fit to all samples, with the penalty that samples left out ask for."""
    place = _chosen(x, targets, fitter, losses)
    *_, found = fitter(x, targets, PENALTIES[max(0, place - 1) : place + 1])
    return found


def _chosen(x: Array, targets: Array, fitter: Fitter, losses: Losses) -> int:
    """The place of the penalty. Samples are dealt in turn, as data is often sorted by class."""
    folds = int(np.clip(SEEN // max(len(x), 1), 1, FOLDS))
    rows: list[Array] = []
    for fold in range(folds):
        out = np.arange(len(x)) % FOLDS == fold
        if out.all() or not out.any():
            continue
        fits = fitter(x[~out], targets[~out], PENALTIES)
        rows.append(np.stack([losses(fit(x[out]), targets[out]) for fit in fits]))
    if not rows:
        return PENALTIES.index(1.0)
    lost = np.concatenate(rows, 1)
    apart = lost - lost[lost.mean(1).argmin()]
    doubt = apart.std(1) / np.sqrt(apart.shape[1])
    return int(np.flatnonzero(apart.mean(1) <= doubt)[0])


def logistic(x: Array, targets: Array, penalties: tuple[float, ...]) -> Iterator[Fit]:
    """Multinomial logistic regression by L-BFGS; each fit begins where the one before ended.

    `targets` are probabilities [samples, classes]; a row of zeros does not count.
    """
    width, classes = x.shape[1], targets.shape[1]
    counts = targets.sum(1, keepdims=True)
    flat = np.zeros(classes * (width + 1))
    for penalty in penalties:

        def loss(flat: Array, penalty: float = penalty) -> tuple[float, Array]:
            weight, bias = flat[: classes * width].reshape(classes, width), flat[classes * width :]
            logs = log_softmax(x @ weight.T + bias)
            wrong = (np.exp(logs) * counts - targets) / len(x)
            value = -(targets * logs).sum() / len(x) + penalty / 2 * (weight**2).sum()
            slopes = (wrong.T @ x + penalty * weight).reshape(-1)
            return float(value), np.concatenate([slopes, wrong.sum(0)])

        options = {"maxiter": 300}
        flat = optimize.minimize(loss, flat, jac=True, method="L-BFGS-B", options=options).x
        weight = flat[: classes * width].reshape(classes, width)
        yield Fit(weight, flat[classes * width :], penalty)


def log_losses(scores: Array, targets: Array) -> Array:
    """Cross-entropy with the targets."""
    found: Array = -(targets * log_softmax(scores)).sum(1)
    return found


def least_squares(x: Array, targets: Array, penalties: tuple[float, ...]) -> Iterator[Fit]:
    """Ridge regression to scores [samples, classes], for all penalties by one decomposition."""
    middle = targets.mean(0)
    bare = x.mean(0)
    values, vectors = np.linalg.eigh((x - bare).T @ (x - bare))
    right = vectors.T @ ((x - bare).T @ (targets - middle))
    for penalty in penalties:
        weight = (vectors @ (right / (np.maximum(values, 0) + penalty * len(x))[:, None])).T
        yield Fit(weight, middle - weight @ bare, penalty)


def squared_losses(scores: Array, targets: Array) -> Array:
    """Squared distances from the targets."""
    found: Array = ((scores - targets) ** 2).sum(1)
    return found


def log_softmax(x: Array) -> Array:
    """Logarithms of the softmax along the last axis."""
    top = x.max(-1, keepdims=True)
    found: Array = x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))
    return found
