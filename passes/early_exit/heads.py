"""Exit heads fitted on calibration features: logistic for few classes, least squares for many.

How strongly weights are held down is in `fitting.py`.

Nothing is back-propagated through the model. With labels a head learns labels; without them it
learns what the whole model answers, as a distilled head does (Phuong and Lampert 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import AdaptiveAvgPool, Linear, ReduceMean, Reshape, Slice, ew
from optc.passes.early_exit.fitting import (
    Scale,
    best_fit,
    least_squares,
    log_losses,
    log_softmax,
    logistic,
    squared_losses,
)

Array = NDArray[Any]
FEW = 100  # classes: with more, the head is the least-squares fit of the model's scores
WIDEST = 1024  # features of a head that keeps some of an image's layout


@dataclass(frozen=True, slots=True)
class Head:
    """Class scores are `features @ weight.T + bias`."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, features: Array) -> Array:
        """Scores [..., classes] of features [..., width]."""
        found: Array = features.astype(np.float32) @ self.weight.T + self.bias
        return found

    def add(self, builder: Builder, features: Value, dtype: DType) -> Value:
        """The head as a node, computed in f32; scores of `dtype`."""
        weight = builder.constant(self.weight, "exit.weight")
        bias = builder.constant(self.bias, "exit.bias")
        wide = cast_to(builder, features, DType.F32)
        scores = builder.emit(Linear(), wide, weight, bias, hint="early")
        return cast_to(builder, scores, dtype)


def cast_to(builder: Builder, value: Value, dtype: DType) -> Value:
    """The value in another dtype, or itself."""
    return value if value.type.dtype is dtype else builder.emit(ew.Cast(dtype), value)


def poolings(value: Value) -> tuple[str, ...]:
    """The ways in which features [rows, width] can be made of a value; none where there is none."""
    shape = value.shape
    if len(shape) == 2:
        return ("itself",)
    if len(shape) == 3:
        return ("mean", "first")
    if len(shape) == 4:
        fine = min(shape[2:]) >= 4 and 4 * shape[1] <= WIDEST
        return ("quarters",) if fine else ("mean",)
    return ()


def pooled(builder: Builder, value: Value, pooling: str) -> Value:
    """Features [rows, width] of a value: tokens [rows, tokens, width], or an image, channels first.

    The mean over all tokens or the first of them; the mean of an image, or of its four quarters.
    """
    shape = value.shape
    if pooling == "itself":
        return value
    if pooling == "quarters":
        quarters = builder.emit(AdaptiveAvgPool((2, 2)), value)
        return builder.emit(Reshape((shape[0], 4 * shape[1])), quarters)
    if pooling == "mean":
        axes = (1,) if len(shape) == 3 else (2, 3)
        return builder.emit(ReduceMean(axes), value)
    first = builder.emit(Slice((0, 0, 0), (shape[0], 1, shape[2]), (1, 1, 1)), value)
    return builder.emit(Reshape((shape[0], shape[2])), first)


def fit_head(features: Array, labels: Array | None, scores: Array) -> Head:
    """A head for features [samples, width]; labels [samples] or None, `scores` of the whole model.

    Raises ValueError for features that are not finite.
    """
    x = features.astype(np.float64)
    if not np.isfinite(x).all() or not np.isfinite(scores).all():
        raise ValueError("a feature is not finite")
    scale = Scale.of(x)
    if scores.shape[-1] > FEW:
        fit = best_fit(scale(x), scores.astype(np.float64), least_squares, squared_losses)
    else:
        fit = best_fit(scale(x), _targets(labels, scores), logistic, log_losses)
    weight = fit.weight / scale.spread
    bias = fit.bias - weight @ scale.middle
    return Head(weight.astype(np.float32), bias.astype(np.float32))


def fit_temperature(scores: Array, labels: Array | None, original: Array) -> float:
    """What scores are divided by so that their probabilities are right on average (Guo et al.
    2017): 1 where they are; between 1/20 and 20.
    """
    targets = _targets(labels, original)

    def loss(log_temperature: float) -> float:
        x = scores.astype(np.float64) / np.exp(log_temperature)
        return float(-(targets * log_softmax(x)).sum(1).mean())

    found = optimize.minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    return float(f"{np.exp(found.x):.2g}")  # more digits would only be noise


def _targets(labels: Array | None, scores: Array) -> NDArray[np.float64]:
    """Probabilities [samples, classes] to learn; rows of labels that do not count are zero."""
    if labels is None:
        found: NDArray[np.float64] = np.exp(log_softmax(scores.astype(np.float64)))
        return found
    numbers = labels.reshape(-1).astype(np.int64)
    targets = np.zeros((len(numbers), scores.shape[-1]))
    counts = (numbers >= 0) & (numbers < scores.shape[-1])
    targets[np.flatnonzero(counts), numbers[counts]] = 1.0
    return targets
