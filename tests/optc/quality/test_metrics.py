"""Metrics against scikit-learn and plain formulas, whole arrays against any way of cutting them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn import metrics as theirs

from optc.arrays import Tensor
from optc.ir.diagnostics import OptcError
from optc.passes.quality import Better, Verdict
from optc.quality.choose import METRICS, check_metric, choose_metric
from optc.quality.metrics import Against, Custom, Metric
from optc.quality.tally import Tally

Array = NDArray[Any]
CLASSES = 7
LABELLED = ["accuracy", "top5", "f1", "perplexity"]


def scores(seed: int, count: int, classes: int = CLASSES) -> tuple[Array, Array, Array]:
    """Scores of two models that often agree, and labels that both know something of."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    first = draw.standard_normal((count, classes)) + 2 * np.eye(classes)[labels]
    second = first + 0.5 * draw.standard_normal((count, classes))
    return first.astype(np.float32), second.astype(np.float32), labels


def metric(name: str, classes: int = CLASSES, labelled: bool = True) -> Metric:
    labels = np.zeros(1, np.int64) if labelled else None
    return choose_metric(name, (Tensor("y", (4, classes), "f32"),), 4, labels)


def judged(rule: Metric, truth: Array, after: Array, before: Array | None = None) -> Tally:
    tally = Tally(rule)
    original = None if before is None else rule.rows({"y": before}, truth)
    tally.add(rule.rows({"y": after}, truth), original)
    return tally


def test_values_are_scikit_learns() -> None:
    first, _, labels = scores(0, 400)
    found = {name: judged(metric(name), labels, first).quality().value for name in LABELLED}
    best = first.argmax(1)
    log = log_softmax(first.astype(np.float64), 1)
    assert_allclose(found["accuracy"], theirs.accuracy_score(labels, best))
    assert_allclose(found["f1"], theirs.f1_score(labels, best, average="macro"))
    assert_allclose(found["top5"], theirs.top_k_accuracy_score(labels, first, k=5))
    assert_allclose(found["perplexity"], np.exp(theirs.log_loss(labels, np.exp(log))), rtol=1e-6)


def test_f1_of_two_classes_is_that_of_the_second() -> None:
    first, _, labels = scores(1, 300, 2)
    found = judged(metric("f1", 2), labels, first).quality().value
    assert_allclose(found, theirs.f1_score(labels, first.argmax(1)))


def test_distances_are_the_formulas() -> None:
    first, second, _ = scores(2, 50)
    rules = {
        n: choose_metric(n, (Tensor("y", (4, CLASSES), "f32"),), 4, second)
        for n in ("mse", "cosine")
    }
    found = {name: judged(rule, second, first).quality().value for name, rule in rules.items()}
    a, b = first.astype(np.float64), second.astype(np.float64)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert_allclose(found["mse"], ((a - b) ** 2).mean())
    assert_allclose(found["cosine"], cosines.mean())


def test_positions_that_do_not_count() -> None:
    first, _, labels = scores(3, 60)
    grid, tokens = first.reshape(12, 5, CLASSES), labels.reshape(12, 5).copy()
    tokens[::2, 3:] = -100
    kept = tokens != -100
    rules = {
        n: choose_metric(n, (Tensor("y", (4, 5, CLASSES), "f32"),), 4, tokens)
        for n in ("accuracy", "perplexity")
    }
    found = {name: judged(rule, tokens, grid).quality() for name, rule in rules.items()}
    log = log_softmax(grid.astype(np.float64), 2)[kept]
    own = log[np.arange(len(log)), tokens[kept]]
    right = (grid.argmax(2) == tokens)[kept]
    assert_allclose(found["accuracy"].value, right.mean())
    assert_allclose(found["perplexity"].value, np.exp(-own.mean()))
    assert found["accuracy"].samples == 12


@given(
    st.integers(0, 1000),
    st.sampled_from([*LABELLED, "agreement", "cosine", "mse"]),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_streaming_gives_what_whole_arrays_give(seed: int, name: str, cuts: list[int]) -> None:
    first, second, labels = scores(seed, 40)
    of_original = name in ("agreement", "cosine", "mse")
    rule = metric(name, labelled=not of_original)
    truth = rule.truth_of({"y": first}) if of_original else labels
    whole = judged(rule, truth, second, None if of_original else first)
    parts = Tally(rule)
    for piece in np.split(np.arange(40), sorted(cuts)):
        if not len(piece):
            continue
        before = None if of_original else rule.rows({"y": first[piece]}, truth[piece])
        parts.add(rule.rows({"y": second[piece]}, truth[piece]), before)
    for one, other in (
        (whole.quality(), parts.quality()),
        (whole.difference(), parts.difference()),
    ):
        assert_allclose(one.interval.low, other.interval.low, rtol=1e-9, atol=1e-12)
        assert_allclose(one.interval.high, other.interval.high, rtol=1e-9, atol=1e-12)
    assert_allclose(whole.difference().drop, parts.difference().drop, rtol=1e-9, atol=1e-12)
    assert whole.quality().interval.low <= whole.quality().value <= whole.quality().interval.high


@pytest.mark.parametrize("name", ["agreement", "cosine", "mse"])
def test_the_original_agrees_with_itself(name: str) -> None:
    first, _, _ = scores(4, 40)
    rule = metric(name, labelled=False)
    found = judged(rule, rule.truth_of({"y": first}), first).difference()
    assert rule.against is Against.ORIGINAL
    assert found.drop == 0
    assert found.interval.low == 0
    assert found.before.value == found.after.value == (0 if name == "mse" else 1)


@pytest.mark.parametrize("name", [*METRICS])
def test_a_model_that_computes_nan_is_bad(name: str) -> None:
    first, _, labels = scores(7, 400)
    broken = np.where(np.arange(400)[:, None] % 2, first, np.nan).astype(np.float32)
    rule = metric(name, labelled=name in LABELLED)
    if rule.against is Against.LABELS:
        found = judged(rule, labels, broken, first).difference()
    else:
        found = judged(rule, rule.truth_of({"y": first}), broken).difference()
    assert found.verdict(0.05) is Verdict.BROKEN


def test_a_function_of_ones_own_and_its_direction() -> None:
    def errors(outputs: dict[str, Array], labels: Array) -> Array:
        return np.abs(outputs["y"].argmax(1) - labels)

    errors.better = "lower"  # type: ignore[attr-defined]
    first, second, labels = scores(5, 200)
    rule = Custom("y", Against.LABELS, errors, "mine:errors")
    found = judged(rule, labels, second, first).difference()
    expected = errors({"y": second}, labels).mean() - errors({"y": first}, labels).mean()
    assert_allclose(found.drop, expected)
    assert found.after.better is Better.LOWER


def test_a_function_that_does_not_answer_per_sample() -> None:
    rule = Custom("y", Against.LABELS, lambda outputs, labels: 0.5, "mine:half")
    with pytest.raises(OptcError, match="one score for each sample") as caught:
        judged(rule, np.zeros(3), np.zeros((3, 2)))
    assert caught.value.diagnostics[0].code == "E0743"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(4, np.float32), "float32"),
        (np.zeros((4, 3), np.int64), "Nx3"),
        (np.full(4, CLASSES), f"a label is {CLASSES}"),
        (np.full(4, -1), "a label is -1"),
    ],
)
def test_labels_that_are_none(labels: Array, words: str) -> None:
    with pytest.raises(OptcError, match=words) as caught:
        judged(metric("accuracy"), labels, scores(0, 4)[0])
    assert caught.value.diagnostics[0].code == "E0744"


def test_labels_in_a_column() -> None:
    first, _, labels = scores(6, 40)
    columns = judged(metric("accuracy"), labels[:, None], first).quality()
    assert columns == judged(metric("accuracy"), labels, first).quality()


@pytest.mark.parametrize(
    ("shape", "dtype", "labels", "expected"),
    [
        ((4, 10), "f32", np.zeros(3, np.int64), "accuracy"),
        ((4, 6, 10), "bf16", np.zeros((3, 6), np.int64), "accuracy"),
        ((4, 10), "f32", np.zeros((3, 10)), "mse"),
        ((4, 10), "f32", None, "agreement"),
        ((4, 10), "i64", None, "agreement"),
        ((4, 1), "f32", None, "cosine"),
        ((4,), "f32", None, "cosine"),
    ],
)
def test_the_metric_that_output_and_labels_suggest(
    shape: tuple[int, ...], dtype: str, labels: Array | None, expected: str
) -> None:
    chosen = choose_metric(None, (Tensor("y", shape, dtype),), 4, labels)
    assert chosen.name == expected
    assert (chosen.against is Against.ORIGINAL) == (labels is None)


@pytest.mark.parametrize(
    ("text", "labelled", "code", "words"),
    [
        ("acuracy", True, "E0745", "did you mean accuracy"),
        ("accuracy", False, "E0749", "needs labels"),
        ("accuracy@z", True, "E0745", "did you mean zz"),
        ("accuracy@zz", True, "E0745", "batch of 4"),
        ("accuracy@flat", True, "E0745", "score for each class"),
        ("agreement@flat", False, "E0745", "score for each class"),
        ("nowhere:metric", True, "E0740", "nowhere"),
    ],
)
def test_metrics_that_cannot_be_taken(text: str, labelled: bool, code: str, words: str) -> None:
    ports = (
        Tensor("y", (4, 3), "f32"), Tensor("zz", (2, 3), "f32"), Tensor("flat", (4,), "f32"),
    )  # fmt: skip
    with pytest.raises(OptcError, match=words) as caught:
        choose_metric(text, ports, 4, np.zeros(4, int) if labelled else None)
    assert caught.value.diagnostics[0].code == code


def test_an_unknown_metric_is_refused_before_there_is_a_model() -> None:
    for name in METRICS:
        check_metric(name)
        check_metric(f"{name}@anything")
    with pytest.raises(OptcError, match="perplexity"):
        check_metric("perplexty")
