"""When to leave: a score from class scores that grows with confidence, as ops and as numbers.

Every score is compared with a threshold from below: a call leaves where the least score of its rows
reaches the threshold. So `inf` is never, `-inf` is always, and a NaN goes on to the next stage.
"""

from __future__ import annotations

from enum import Enum
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import LogSoftmax, ReduceMax, ReduceMin, ReduceSum, Slice, Softmax, TopK, ew
from optc.ir.types import TensorType

Array = NDArray[Any]


class Decision(Enum):
    """What confidence is; all but the energy lie between 0 and 1."""

    MAXPROB = "maxprob"  # the largest probability
    ENTROPY = "entropy"  # 1 - entropy / log(classes); Teerapittayanon et al. 2016
    MARGIN = "margin"  # the largest probability less the second largest
    ENERGY = "energy"  # T * logsumexp(scores / T), the free energy with its sign; Liu et al. 2020


def add_decision(
    builder: Builder, decision: Decision, logits: Value, threshold: Value, temperature: float
) -> Value:
    """The bool scalar that is true where every row of `logits` [rows, classes] is sure enough."""
    score = row_scores(builder, decision, logits, temperature)
    least = builder.emit(ReduceMin(axes=(0,)), score, hint="confidence")
    return builder.emit(ew.GreaterEqual(), least, threshold, hint="sure")


def row_scores(builder: Builder, decision: Decision, logits: Value, temperature: float) -> Value:
    """The score of every row, [rows]."""
    x = logits if logits.type.dtype is DType.F32 else builder.emit(ew.Cast(DType.F32), logits)
    if temperature != 1.0:
        cooler = builder.splat(1.0 / temperature, TensorType((), DType.F32), "cooler")
        x = builder.emit(ew.Mul(), x, cooler)
    return _score(builder, decision, x, temperature)


def _score(builder: Builder, decision: Decision, x: Value, temperature: float) -> Value:
    """Scores of the rows, [rows]."""
    rows, classes = x.shape
    vector = TensorType((), DType.F32)
    if decision is Decision.ENERGY:
        top = builder.emit(ReduceMax(axes=(1,), keepdims=True), x)
        powers = builder.emit(ew.Exp(), builder.emit(ew.Sub(), x, top))
        rest = builder.emit(ew.Log(), builder.emit(ReduceSum(axes=(1,), keepdims=True), powers))
        energy = builder.emit(ReduceSum(axes=(1,)), builder.emit(ew.Add(), top, rest))
        if temperature == 1.0:
            return energy
        return builder.emit(ew.Mul(), energy, builder.splat(temperature, vector, "temperature"))
    p = builder.emit(Softmax(axis=1), x)
    if decision is Decision.MAXPROB:
        return builder.emit(ReduceMax(axes=(1,)), p)
    if decision is Decision.MARGIN:
        best, _ = builder.emit_all(TopK(k=2, axis=1), p)
        first, second = (builder.emit(Slice((0, i), (rows, i + 1), (1, 1)), best) for i in range(2))
        return builder.emit(ReduceSum(axes=(1,)), builder.emit(ew.Sub(), first, second))
    surprise = builder.emit(ew.Mul(), p, builder.emit(LogSoftmax(axis=1), x))
    share = builder.splat(1.0 / log(classes), vector, "share")
    lost = builder.emit(ew.Mul(), builder.emit(ReduceSum(axes=(1,)), surprise), share)
    return builder.emit(ew.Add(), lost, builder.splat(1.0, vector, "one"))


def scores(decision: Decision, logits: Array, temperature: float) -> NDArray[np.float64]:
    """The same scores of logits [..., classes], in f64."""
    x = logits.astype(np.float64) / temperature
    top = x.max(-1, keepdims=True)
    total = np.exp(x - top).sum(-1, keepdims=True)
    found: Array
    if decision is Decision.ENERGY:
        found = temperature * (top + np.log(total))[..., 0]
        return found
    p = np.exp(x - top) / total
    if decision is Decision.MAXPROB:
        found = p.max(-1)
    elif decision is Decision.MARGIN:
        best = np.sort(p, -1)
        found = best[..., -1] - best[..., -2]
    else:
        found = 1 + (p * (x - top - np.log(total))).sum(-1) / log(x.shape[-1])
    return found
