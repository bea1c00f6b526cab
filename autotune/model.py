"""The learned cost model: which candidates are worth measuring, from all that was measured.

Gradient-boosted trees on features of the loops, one for each template, as in Chen et al. 2018. They
learn the logarithm of a candidate's time over the fastest of its task, so that records of other
shapes, and of other models in the same database, teach about this one.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.autotune.records import Record, Records
from optc.autotune.search import Predict
from optc.autotune.task import TuningTask
from optc.backends.tvm.features import VERSION, features
from optc.backends.tvm.templates.plan import Knobs

PACKAGE = "sklearn"
FEWEST = 24  # records of a template before its trees are asked
AGAIN = 1.25  # growth of the records after which the trees are grown anew
FAILED = 3.0  # a candidate that failed counts as this much slower than the best, as a logarithm


def is_available() -> bool:
    """Whether the extra that brings the trees is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


@dataclass(eq=False)
class _Trees:
    """What was learnt of a template, from how many records."""

    trees: Any
    records: int


@dataclass(eq=False)
class CostModel:
    """Trees by template, grown when they are asked and there is enough that is new."""

    records: Records
    seed: int = 0
    _grown: dict[str, _Trees] = field(default_factory=dict)
    _features: dict[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)

    def features(self, task: TuningTask, knobs: Knobs) -> tuple[float, ...]:
        """Features of a candidate, computed once; none of one that cannot be emitted."""
        key = (task.key, repr(knobs))
        if key not in self._features:
            try:
                self._features[key] = features(task.plan, knobs)
            except Exception:  # it will fail again where it is measured, and be recorded with it
                self._features[key] = ()
        return self._features[key]

    def predictor(self, task: TuningTask) -> Predict:
        """The model as a search wants it."""
        return partial(self._predict, task)

    def _predict(self, task: TuningTask, knobs: Sequence[Knobs]) -> Sequence[float]:
        trees = self._trees(task.template)
        if trees is None:  # as the analytic model put them
            return range(len(knobs))
        rows = [self.features(task, one) for one in knobs]
        width = trees.n_features_in_
        usable = [row if len(row) == width else (math.nan,) * width for row in rows]
        return [float(score) for score in trees.predict(np.array(usable))]

    def _trees(self, template: str) -> Any:
        known = [r for r in self.records if r.template == template and _is_usable(r)]
        grown = self._grown.get(template)
        if grown is None or len(known) >= AGAIN * grown.records:
            if len(known) < FEWEST:
                return None
            inputs, targets = table(known)
            grown = self._grown[template] = _Trees(grow(inputs, targets, self.seed), len(known))
        return grown.trees


def _is_usable(record: Record) -> bool:
    return bool(record.features) and record.features[0] == VERSION


def table(records: Sequence[Record]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of features, and how much slower than the best of its task each is, as a logarithm."""
    best: dict[str, float] = {}
    for record in records:
        if record.seconds is not None:
            best[record.key] = min(record.seconds, best.get(record.key, math.inf))
    width = max(len(record.features) for record in records)
    usable = [r for r in records if len(r.features) == width and r.key in best]
    slower = [
        FAILED if r.seconds is None else min(FAILED, math.log(r.seconds / best[r.key]))
        for r in usable
    ]
    return np.array([record.features for record in usable]), np.array(slower)


def grow(inputs: NDArray[Any], targets: NDArray[Any], seed: int = 0) -> Any:
    """Small trees with few leaves: there are tens of records, seldom thousands."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    trees = HistGradientBoostingRegressor(
        max_iter=100,
        learning_rate=0.1,
        max_leaf_nodes=8,
        min_samples_leaf=4,
        l2_regularization=0.1,
        early_stopping=False,
        random_state=seed,
    )
    return trees.fit(inputs, targets)
