"""The metrics. Each turns the outputs of a call into two numbers a sample: x and y of `Sums`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from optc.data.function import failed
from optc.ir.diagnostics import error
from optc.passes.quality import Better, Scale

Array = NDArray[Any]
IGNORED = -100  # a label that does not count, as in torch


class Against(Enum):
    """What outputs are judged by."""

    LABELS = "labels"
    ORIGINAL = "the original model's outputs"


@dataclass(frozen=True)
class Metric(ABC):
    """A metric of one output, whose first axis counts samples."""

    output: str
    against: Against = Against.LABELS

    name: ClassVar[str]
    better: ClassVar[Better] = Better.HIGHER
    scale: ClassVar[Scale] = Scale.POINTS
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @abstractmethod
    def rows(self, outputs: Mapping[str, Array], truth: Array) -> tuple[Array, Array]:
        """x and y, each of shape (samples,), of outputs and labels of these samples."""

    def truth_of(self, outputs: Mapping[str, Array]) -> Array:
        """What to keep of the original's outputs, where they are the truth."""
        return outputs[self.output]

    @property
    def label(self) -> str:
        """The name as it is printed."""
        beside = " with the original" if self.against is Against.ORIGINAL else ""
        return f"{self.name}{beside}"

    @property
    def improves(self) -> Better:
        """Which way it improves."""
        return self.better

    def value(self, ratio: float) -> float:
        """The metric from the ratio of sums, or a bound of it from a bound."""
        return ratio


@dataclass(frozen=True)
class Accuracy(Metric):
    """Share of samples, or of the positions of each, whose label has the highest score."""

    name = "accuracy"
    best: ClassVar[int] = 1

    def rows(self, outputs: Mapping[str, Array], truth: Array) -> tuple[Array, Array]:
        """x: right positions, y: positions that count."""
        scores = _numbers(outputs[self.output])
        labels = checked_labels(truth, scores, self)
        counts = labels != IGNORED
        if self.best == 1:
            right = _best(scores) == labels
        else:
            own = np.take_along_axis(scores, np.where(counts, labels, 0)[..., None], -1)
            right = ((scores > own).sum(-1) < self.best) & (_best(scores) >= 0)
        return _per_sample(right & counts), _per_sample(counts)


@dataclass(frozen=True)
class Top5(Accuracy):
    """Share of samples whose label is among the five highest scores."""

    name = "top5"
    best = 5


@dataclass(frozen=True)
class Agreement(Metric):
    """Share of samples, or positions, where the highest score is where the original has it."""

    against: Against = Against.ORIGINAL
    name = "agreement"

    def rows(self, outputs: Mapping[str, Array], truth: Array) -> tuple[Array, Array]:
        """x: equal positions, y: positions."""
        equal = self.truth_of(outputs) == truth
        return _per_sample(equal), _per_sample(np.ones_like(equal))

    def truth_of(self, outputs: Mapping[str, Array]) -> Array:
        """The places of the highest scores, -1 beside nan; whole numbers as they are."""
        found = outputs[self.output]
        if found.dtype.kind != "f":
            return found
        return _best(found)


@dataclass(frozen=True)
class MeanSquaredError(Metric):
    """Mean of squared differences over all elements of a sample."""

    name = "mse"
    better = Better.LOWER
    scale = Scale.RELATIVE
    bounds = (0.0, inf)

    def rows(self, outputs: Mapping[str, Array], truth: Array) -> tuple[Array, Array]:
        """x: the sample's mean, y: 1."""
        found = _numbers(outputs[self.output])
        wanted = _fitting(truth, found, self)
        x = ((found - wanted) ** 2).reshape(len(found), -1).mean(1)
        return x, np.ones(len(found))


@dataclass(frozen=True)
class Cosine(Metric):
    """Mean cosine between a sample's output, as one vector, and what it should be."""

    name = "cosine"
    bounds = (-1.0, 1.0)

    def rows(self, outputs: Mapping[str, Array], truth: Array) -> tuple[Array, Array]:
        """x: the sample's cosine (1 where both are zero), y: 1."""
        found = _numbers(outputs[self.output])
        wanted = _fitting(truth, found, self).reshape(len(found), -1)
        found = found.reshape(len(found), -1)
        sizes = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        same = (found == wanted).all(1)
        x = np.where(same, 1.0, (found * wanted).sum(1) / np.where(sizes > 0, sizes, 1.0))
        return np.clip(x, -1.0, 1.0), np.ones(len(found))


@dataclass(frozen=True)
class Perplexity(Metric):
    """exp of the mean log-loss of labels under the softmax of the scores: (N, ..., classes)."""

    name = "perplexity"
    better = Better.LOWER
    scale = Scale.RELATIVE
    bounds = (1.0, inf)

    def rows(self, outputs: Mapping[str, Array], truth: Array) -> tuple[Array, Array]:
        """x: the sample's log-losses, y: how many."""
        scores = _numbers(outputs[self.output])
        labels = checked_labels(truth, scores, self)
        counts = labels != IGNORED
        top = scores.max(-1, keepdims=True)
        own = np.take_along_axis(scores, np.where(counts, labels, 0)[..., None], -1)[..., 0]
        loss = np.log(np.exp(scores - top).sum(-1)) + top[..., 0] - own
        return _per_sample(np.where(counts, loss, 0.0)), _per_sample(counts)

    def value(self, ratio: float) -> float:
        """exp(mean loss)."""
        return float(np.exp(min(ratio, 700.0)))


@dataclass(frozen=True)
class F1(Metric):
    """Harmonic mean of precision and recall: of class 1 for two classes, else the classes' mean."""

    classes: int = 2
    name = "f1"

    def rows(self, outputs: Mapping[str, Array], truth: Array) -> tuple[Array, Array]:
        """x: the class with the highest score, y: the label."""
        scores = _numbers(outputs[self.output])
        labels = checked_labels(truth, scores, self)
        return _best(scores).astype(np.float64), labels.astype(np.float64)


@dataclass(frozen=True)
class Custom(Metric):
    """The user's function: outputs by name and labels to one score a sample; the mean counts.

    Without labels it gets the original's output in their place. An attribute `better = "lower"`
    of the function turns the direction round.
    """

    function: Callable[[Mapping[str, Array], Array], Any] = max
    place: str = ""
    name = "custom"
    bounds = (-inf, inf)

    @property
    def label(self) -> str:
        """Where the function is."""
        return self.place

    @property
    def improves(self) -> Better:
        """Up, unless the function says otherwise."""
        return Better(getattr(self.function, "better", Better.HIGHER.value))

    def rows(self, outputs: Mapping[str, Array], truth: Array) -> tuple[Array, Array]:
        """x: the scores, y: 1; raises E0743 for what the function raises or returns."""
        count = len(truth)
        try:
            scores = np.asarray(self.function(outputs, truth), np.float64)
        except Exception as problem:
            raise failed(self.place, problem) from problem
        if scores.shape != (count,) or not np.isfinite(scores).all():
            raise error(
                "E0743",
                f"{self.place} returned {'x'.join(map(str, scores.shape)) or 'one number'} for "
                f"{count} samples, or a number that is not finite",
                help="return one score for each sample, as an array",
            )
        return scores, np.ones(count)


def checked_labels(labels: Array, scores: Array, metric: Metric) -> Array:
    """Class numbers in the shape of the scores without their last axis; raises E0744."""
    wanted = scores.shape[:-1]
    if labels.shape != wanted and labels.shape == (*wanted, 1):
        labels = labels[..., 0]
    if labels.dtype.kind not in "iub" or labels.shape != wanted:
        shape = "x".join(map(str, ("N", *labels.shape[1:])))
        need = "x".join(map(str, ("N", *wanted[1:])))
        raise error(
            "E0744",
            f"{metric.name} of {metric.output!r} takes whole numbers of shape {need} as labels, "
            f"these are {labels.dtype} of shape {shape}",
            help="optc explain E0744",
        )
    whole = labels.astype(np.int64)
    wrong = whole[(whole != IGNORED) & ((whole < 0) | (whole >= scores.shape[-1]))]
    if wrong.size:
        raise error(
            "E0744",
            f"a label is {wrong[0]}, and {metric.output!r} has classes 0 to {scores.shape[-1] - 1}",
            help=f"{IGNORED} marks a position that does not count",
        )
    return whole


def _fitting(truth: Array, found: Array, metric: Metric) -> Array:
    if truth.shape != found.shape:
        shape, need = ("x".join(map(str, ("N", *a.shape[1:]))) for a in (truth, found))
        raise error("E0744", f"{metric.name} compares {need} with labels of shape {shape}")
    return _numbers(truth)


def _numbers(array: Array) -> Array:
    return array.astype(np.float64)


def _best(scores: Array) -> Array:
    """Where the highest score is along the last axis; -1 beside nan, which agrees with no label."""
    return np.where(np.isnan(scores).any(-1), -1, scores.argmax(-1))


def _per_sample(array: Array) -> Array:
    numbers: Array = array.reshape(len(array), -1).sum(1).astype(np.float64)
    return numbers
