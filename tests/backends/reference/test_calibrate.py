"""Calibration: statistics, scores and features equal those of all samples at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from torch.nn import functional

from optc.backends.reference.calibrate import ReferenceCalibration
from optc.backends.reference.dtypes import to_tensor
from optc.backends.reference.gradients import Loss, LossKind
from optc.backends.reference.spread import Spread
from optc.ir.text import parse
from optc.passes.calibration import BINS, Batch, Importance

MODEL = """module @m {
  input x : 4x6xf32
  output y : 4x3xf32
  flow {
    y = run @main(x)
  }
  graph @main(%x: 4x6xf32) {
    %w1 = constant {seed=1} : 8x6xf32
    %w2 = constant {seed=2} : 3x8xf32
    %up = linear(%x, %w1) : 4x8xf32
    %act = relu(%up) : 4x8xf32
    %y = linear(%act, %w2) : 4x3xf32
    return %y
  }
}"""
MODULE = parse(MODEL)
GRAPH = MODULE.graphs[0]
UP, ACT, Y = (node.output for node in GRAPH.nodes)
W1, W2 = GRAPH.constants
LOSS = Loss("y", LossKind.CROSS_ENTROPY)


@dataclass
class Fixed:
    """Batches in memory that count how often they are walked."""

    x: NDArray[Any]
    labels: NDArray[Any] | None = None
    walks: int = 0
    digest: str = "fixed"

    @property
    def samples(self) -> int:
        return len(self.x)

    @property
    def calls(self) -> int:
        return len(self.x) // 4

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def __iter__(self) -> Iterator[Batch]:
        self.walks += 1
        for start in range(0, len(self.x), 4):
            rows = slice(start, start + 4)
            labels = None if self.labels is None else self.labels[rows]
            yield Batch({"x": self.x[rows]}, 4, 4, labels)


@pytest.fixture
def data() -> Fixed:
    draw = np.random.default_rng(0)
    return Fixed(draw.standard_normal((40, 6)).astype(np.float32), draw.integers(0, 3, 40))


def forward(x: NDArray[Any], w1: torch.Tensor, w2: torch.Tensor) -> list[torch.Tensor]:
    up = torch.from_numpy(x) @ w1.T
    return [up, up.relu(), up.relu() @ w2.T]


def weights() -> tuple[torch.Tensor, torch.Tensor]:
    first, second = (to_tensor(GRAPH.constants[w]).clone().requires_grad_() for w in (W1, W2))
    return first, second


def test_statistics_are_those_of_all_samples(data: Fixed) -> None:
    found = ReferenceCalibration(data, LOSS).statistics(MODULE, [UP, ACT], {ACT: 1})
    up, act, _ = (t.detach().double().numpy() for t in forward(data.x, *weights()))
    for got, x, axes in ((found[UP], up.reshape(-1, 1), 0), (found[ACT], act, 0)):
        assert_allclose(got.least, x.min(axes), rtol=1e-5)
        assert_allclose(got.most, x.max(axes), rtol=1e-5)
        assert_allclose(got.mean, x.mean(axes), rtol=1e-4, atol=1e-6)
        assert_allclose(got.variance, x.var(axes), rtol=1e-4)
        assert list(got.elements) == [len(x)] * x.shape[1]
        assert got.counts.sum() == x.size
    for percent in (0.1, 5, 50, 99, 99.9, 100):
        width = 2 * found[UP].reach / BINS
        expected = np.percentile(up, percent, method="inverted_cdf")
        assert abs(found[UP].percentile(percent) - expected) <= width


@given(st.lists(st.tuples(st.integers(-150, 30), st.integers(1, 30)), min_size=1, max_size=5))
def test_a_histogram_does_not_depend_on_the_order_of_calls(calls: list[tuple[int, int]]) -> None:
    draw = np.random.default_rng(0)
    parts = [draw.standard_normal(n).astype(np.float32) * np.float32(2.0**e) for e, n in calls]
    parts = [part for part in parts if np.abs(part).max() > 2.0**-120]
    spreads = [Spread(), Spread(), Spread()]
    for part in parts:
        spreads[0].add(part)
    for part in parts[::-1]:
        spreads[1].add(part)
    if not parts:
        return
    spreads[2].add(np.concatenate(parts))
    found = [spread.statistics() for spread in spreads]
    for other in found[1:]:
        assert np.array_equal(found[0].counts, other.counts)
        assert found[0].reach == other.reach
        assert found[0].percentile(37) == other.percentile(37)
    assert found[0].reach <= 2 * np.abs(np.concatenate(parts)).max()


def test_what_is_not_finite_is_left_out() -> None:
    spread = Spread(0)
    spread.add(np.array([[1.0, -np.inf, 3.0], [np.nan, np.nan, 2.0]], np.float32))
    found = spread.statistics()
    assert (list(found.least), list(found.most)) == ([1, 2], [3, 2])
    assert list(found.elements) == [2, 1]
    assert found.counts.sum() == 3
    with pytest.raises(ValueError, match="finite"):
        Spread().statistics()


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float16, np.float64])
def test_values_of_every_dtype(dtype: type) -> None:
    spread = Spread()
    spread.add(np.array([0, 1, 1, 0]).astype(dtype))
    assert float(spread.statistics().mean[0]) == 0.5


@pytest.mark.parametrize("kind", list(Importance))
def test_importance_is_torchs_gradient_times_weight(data: Fixed, kind: Importance) -> None:
    found = ReferenceCalibration(data, LOSS).importance(MODULE, [W1, W2], kind)
    expected = [np.zeros(w.shape) for w in (W1, W2)]
    for batch in data:
        own = weights()
        loss = functional.cross_entropy(
            forward(batch.inputs["x"], *own)[2], torch.from_numpy(batch.labels)
        )
        loss.backward()
        for total, w in zip(expected, own, strict=True):
            assert w.grad is not None
            product = np.abs((w.grad * w).detach().numpy())
            total += (product if kind is Importance.FIRST else product**2) / data.calls
    for w, total in zip((W1, W2), expected, strict=True):
        assert_allclose(found[w], total, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("labelled", [True, False])
def test_joint_importance_squares_the_sum_over_a_set(data: Fixed, labelled: bool) -> None:
    fixed = data if labelled else Fixed(data.x)
    # Hidden feature n is row n of W1 and column n of W2; here two features at a time are one set.
    pairs = np.arange(8) // 2
    sets = {(W1, 0): pairs, (W2, 1): pairs}
    found = ReferenceCalibration(fixed, LOSS).joint_importance(MODULE, sets)
    expected = np.zeros(4)
    for call, batch in enumerate(fixed):
        first, second = weights()
        LOSS.of(forward(batch.inputs["x"], first, second)[2], batch, call).backward()
        assert first.grad is not None
        assert second.grad is not None
        parts = (first.grad * first).sum(1) + (second.grad * second).sum(0)
        expected += parts.detach().double().numpy().reshape(4, 2).sum(1) ** 2 / fixed.calls
    assert_allclose(found, expected, rtol=1e-3, atol=1e-9)


def test_sets_that_are_asked_again_are_answered_from_what_was_kept(
    data: Fixed, tmp_path: Path
) -> None:
    first = {(W1, 0): np.arange(8), (W2, 1): np.arange(8)}
    for sets, walks in ((first, 1), (first, 1), ({**first, (W1, 0): np.arange(8)[::-1]}, 2)):
        ReferenceCalibration(data, LOSS, tmp_path).joint_importance(MODULE, sets)
        assert data.walks == walks


@pytest.mark.parametrize("kind", list(LossKind))
def test_scores_without_labels_are_drawn_alike_each_time(data: Fixed, kind: LossKind) -> None:
    bare = Fixed(data.x)
    first, second, other = (
        ReferenceCalibration(bare, Loss("y", kind, seed)).importance(MODULE, [W1])[W1]
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert (first.sum(1) > 0).any()


def test_a_weight_that_nothing_reads_scores_nothing(data: Fixed) -> None:
    text = MODEL.replace("output y : 4x3xf32", "output y : 4x3xf32\n  output u : 4x8xf32")
    text = text.replace("y = run", "y, u = run").replace("return %y", "return %y, %up")
    module = parse(text)
    w2 = list(module.graphs[0].constants)[1]
    for fixed in (data, Fixed(data.x)):  # labels that are no output of `u`, and none
        calibration = ReferenceCalibration(fixed, Loss("u", LossKind.SQUARES))
        assert not calibration.importance(module, [w2])[w2].any()


def test_features_and_labels_go_together(data: Fixed) -> None:
    calibration = ReferenceCalibration(data, LOSS)
    found = calibration.features(MODULE, [ACT, Y], calls=3)
    assert found[ACT].shape == (3, 4, 8)
    assert_allclose(
        found[Y].reshape(12, 3), forward(data.x[:12], *weights())[2].detach().numpy(), rtol=1e-4
    )
    labels = calibration.labels(3)
    assert labels is not None
    assert data.labels is not None
    assert np.array_equal(labels.reshape(-1), data.labels[:12])
    assert ReferenceCalibration(Fixed(data.x), LOSS).labels() is None


def test_answers_are_kept_by_model_data_and_question(data: Fixed, tmp_path: Path) -> None:
    def ask(text: str = MODEL, loss: Loss = LOSS) -> ReferenceCalibration:
        module = parse(text)
        values = [node.output for node in module.graphs[0].nodes]
        calibration = ReferenceCalibration(data, loss, tmp_path)
        calibration.statistics(module, values[:2])
        calibration.importance(module, list(module.graphs[0].constants))
        return calibration

    first = ask()
    walks = data.walks
    assert walks == 2
    ask()
    ask(MODEL.replace("%act", "%renamed"))
    assert data.walks == walks
    first.statistics(MODULE, [UP, Y])  # one of them is new
    first.statistics(MODULE, [UP], {UP: 1})
    assert data.walks == walks + 2
    ask(loss=Loss("y", LossKind.CROSS_ENTROPY, 1))
    assert data.walks == walks + 3
    ask(MODEL.replace("seed=2", "seed=3"))
    assert data.walks == walks + 5
    data.digest = "other"
    ask()
    assert data.walks == walks + 7
    for calls in (2, 2, 3):
        first.features(MODULE, [ACT, Y], calls)
    assert data.walks == walks + 9
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz"}, "features are not kept"


def test_nothing_is_kept_between_calls(data: Fixed) -> None:
    seen = []
    ReferenceCalibration(data, LOSS).visit(MODULE, [ACT], lambda found: seen.append(list(found)))
    assert seen == [[ACT]] * 10
