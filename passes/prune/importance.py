"""How much a component matters: the number that decides what is removed first.

A criterion gives one score per component of a graph, from its weights, from what the user's data
says about them, or from a seed. Scores are compared within a family only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from optc.ir.constant import Constant, to_floats
from optc.ir.module import Module
from optc.ir.ops import BatchNorm
from optc.passes.base import PassContext
from optc.passes.prune.coupling import Couplings
from optc.passes.prune.elimination import curves
from optc.passes.prune.solution import FREE

Scores = NDArray[np.float64]
# From a module, the couplings of one of its graphs, the context and a seed.
Score = Callable[[Module, Couplings, PassContext, int], Scores]


class Criterion(Enum):
    """What makes a component important."""

    L1 = "l1"
    L2 = "l2"
    TAYLOR = "taylor"
    FIT = "fit"
    RANDOM = "random"


def _norm(power: int) -> Score:
    """Norms of weight slices (Li et al. 2017), each axis normalised to a mean of one.

    Without the normalisation the largest weight of a residual stream would decide for all.
    """

    def score(_module: Module, found: Couplings, _ctx: PassContext, _seed: int) -> Scores:
        count = len(found.pin_of)
        matrices, vectors = np.zeros(count), np.zeros(count)
        for value, item in found.graph.constants.items():
            if not item.type.dtype.is_float or not item.type.elements:
                continue
            for axis in range(item.type.rank):
                held = found.components(value, axis)
                if (found.pin_of[held] == FREE).any():
                    into = matrices if item.type.rank > 1 else vectors
                    np.add.at(into, held, _slices(item, axis, power))
        return np.where(matrices > 0, matrices, vectors)

    return score


def _slices(item: Constant, axis: int, power: int) -> Scores:
    """The norm of each slice along an axis over their mean."""
    numbers = np.abs(to_floats(item).astype(np.float32))
    rest = tuple(other for other in range(numbers.ndim) if other != axis)
    norms = (numbers**power).sum(rest, dtype=np.float64) ** (1 / power)
    scaled: Scores = norms / (norms.mean() or 1.0)
    return scaled


def _taylor(module: Module, found: Couplings, ctx: PassContext, _seed: int) -> Scores:
    """The square of how far the loss moves, to first order, when a component goes.

    Gradient times weight, summed over all that leaves together (Molchanov et al. 2019, section
    3.1). What a batch norm has measured is no weight and does not count.
    """
    calibration = ctx.needed_calibration("criterion=taylor")
    read = {value for node in found.graph.nodes for value in node.inputs}
    norms = (node for node in found.graph.nodes if isinstance(node.op, BatchNorm))
    measured = {value for node in norms for value in node.inputs[1:3]}
    sets = {
        (value, axis): held
        for value, item in found.graph.constants.items()
        if item.type.dtype.is_float and value in read and value not in measured
        for axis in range(item.type.rank)
        if (found.pin_of[held := found.components(value, axis)] == FREE).any()
    }
    scores = np.zeros(len(found.pin_of))
    if sets:
        joint = calibration.joint_importance(module, sets)
        scores[: len(joint)] = joint
    return scores


def _fit(module: Module, found: Couplings, ctx: PassContext, _seed: int) -> Scores:
    """The place in the order in which components go; norms where no layer can be fitted."""
    scores = _norm(1)(module, found, ctx, 0)
    for curve in curves(module, found, ctx, "criterion=fit").values():
        scores[curve.order] = np.arange(len(curve.order))
    return scores


def _random(_module: Module, found: Couplings, _ctx: PassContext, seed: int) -> Scores:
    return np.random.default_rng(seed).random(len(found.pin_of))


SCORES: Mapping[Criterion, Score] = {
    Criterion.L1: _norm(1),
    Criterion.L2: _norm(2),
    Criterion.TAYLOR: _taylor,
    Criterion.FIT: _fit,
    Criterion.RANDOM: _random,
}
