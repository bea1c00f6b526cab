"""Scores as ops equal scores as numbers, and the least row decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.backends.reference.evaluate import run_graph
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.types import TensorType
from optc.passes.early_exit.decision import Decision, add_decision, scores

everywhere = pytest.mark.parametrize("decision", Decision)


def graph(decision: Decision, rows: int, classes: int, temperature: float) -> Graph:
    builder = Builder("decide")
    logits = builder.input(TensorType((rows, classes), DType.F32))
    threshold = builder.input(TensorType((), DType.F32))
    sure = add_decision(builder, decision, logits, threshold, temperature)
    return builder.build([sure])


def sure(decision: Decision, logits: np.ndarray, threshold: float, temperature: float) -> bool:
    body = graph(decision, *logits.shape, temperature)
    (found,) = run_graph(body, [torch.from_numpy(logits), torch.tensor(threshold)])
    return bool(found)


@everywhere
@settings(max_examples=30)
@given(
    seed=st.integers(0, 1 << 30),
    rows=st.integers(1, 3),
    classes=st.integers(2, 5),
    temperature=st.sampled_from([1.0, 0.5, 3.0]),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_ops_and_numbers_agree(
    decision: Decision, seed: int, rows: int, classes: int, temperature: float, scale: float
) -> None:
    draw = np.random.Generator(np.random.PCG64(seed))
    logits = (scale * draw.standard_normal((rows, classes))).astype(np.float32)
    least = float(scores(decision, logits, temperature).min())
    margin = 1e-4 * max(1.0, abs(least))
    assert sure(decision, logits, least - margin, temperature)
    assert not sure(decision, logits, least + margin, temperature)


@everywhere
def test_never_always_and_nan(decision: Decision) -> None:
    logits = np.array([[9.0, 0.0], [0.0, 1.0]], np.float32)
    assert not sure(decision, logits, np.inf, 1.0)
    assert sure(decision, logits, -np.inf, 1.0)
    logits[1, 1] = np.nan
    assert not sure(decision, logits, -np.inf, 1.0)


def test_scores_by_hand() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1]]))
    entropy = -sum(p * np.log(p) for p in (0.7, 0.2, 0.1)) / np.log(3)
    wanted = {"maxprob": 0.7, "margin": 0.5, "entropy": 1 - entropy, "energy": 0.0}
    found = {d.value: float(scores(d, logits, 1.0)[0]) for d in Decision}
    assert found == pytest.approx(wanted)
    assert float(scores(Decision.ENERGY, logits, 2.0)[0]) == pytest.approx(
        2 * np.log(np.sqrt([0.7, 0.2, 0.1]).sum())
    )
