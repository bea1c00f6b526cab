"""The learned cost model: it ranks what it has seen enough of, and leaves the rest in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from optc.autotune.model import FEWEST, CostModel, grow, table
from optc.autotune.records import Record, Records
from optc.autotune.task import TuningTask, tasks_of
from optc.backends.tvm.features import VERSION, features, loop_features
from optc.driver import lower_module
from optc.ir.parser import parse_module
from optc.ir.targets.find import find_target
from tests.cli.conftest import MLP

WIDE = MLP.replace("4x16", "64x256").replace("32x16", "512x256").replace("8x32", "128x512")
WIDE = WIDE.replace("4x32", "64x512").replace("4x8", "64x128")


@pytest.fixture(scope="module")
def tasks() -> tuple[TuningTask, ...]:
    target = find_target("x86-64-v4")
    return tasks_of(lower_module(parse_module(WIDE), target), target)


def record(task: TuningTask, knobs: Any, seconds: float | None) -> Record:
    row = features(task.plan, knobs)
    return Record(task.key, task.name, task.template, repr(knobs), seconds, features=row)


def made_up_seconds(knobs: Any) -> float:
    """A landscape in the knobs that the analytic model does not know."""
    return 1e-3 * (1 + abs(knobs.vectors - 5) + 0.02 * knobs.rows)


def test_features_tell_candidates_apart_and_are_the_same_each_time(
    tasks: tuple[TuningTask, ...],
) -> None:
    task = tasks[0]
    rows = [features(task.plan, knobs) for knobs in task.candidates]
    assert len(set(rows)) == len(rows)
    assert rows == [features(task.plan, knobs) for knobs in task.candidates]
    assert all(row[0] == VERSION for row in rows)
    assert all(np.isfinite(row).all() for row in rows)


def test_products_are_counted_as_the_cost_table_counts_them(tasks: tuple[TuningTask, ...]) -> None:
    task = tasks[0]
    counts = loop_features(task.plan.emit("x", task.candidates[0]).function)
    lanes = 2 ** counts["lanes"] - 1
    products = (2 ** counts["products"] - 1) * lanes
    assert products == pytest.approx(task.cost.flops / 2, rel=0.5)  # both sides of a branch: half


@pytest.mark.needs("package:sklearn")
def test_synthetic_ranks_are_learnt() -> None:
    source = np.random.default_rng(0)
    inputs = source.uniform(0, 4, (200, 6))
    slower = np.abs(inputs[:, 0] - 2) + 0.5 * inputs[:, 1] * (inputs[:, 2] > 2)
    trees = grow(inputs[:100], slower[:100] + source.normal(0, 0.05, 100))
    assert spearmanr(trees.predict(inputs[100:]), slower[100:]).statistic > 0.8


@pytest.mark.needs("package:sklearn")
def test_records_of_one_shape_teach_about_another(
    tasks: tuple[TuningTask, ...], tmp_path: Path
) -> None:
    known, asked = tasks[0], tasks[1]
    records = Records.open(tmp_path / "r.jsonl")
    variants = [replace(known, key=f"variant {i}") for i in range(3)]
    records.add(
        record(task, knobs, made_up_seconds(knobs) * (i + 1))
        for i, task in enumerate(variants)
        for knobs in known.candidates
    )
    assert len(records) >= FEWEST
    candidates = list(asked.candidates)
    scores = CostModel(records).predictor(asked)(candidates)
    truth = [made_up_seconds(knobs) for knobs in candidates]
    assert spearmanr(scores, truth).statistic > 0.6


def test_too_few_records_leave_the_analytic_order(
    tasks: tuple[TuningTask, ...], tmp_path: Path
) -> None:
    records = Records.open(tmp_path / "r.jsonl")
    records.add([record(tasks[0], tasks[0].candidates[0], 1.0)])
    scores = CostModel(records).predictor(tasks[0])(tasks[0].candidates)
    assert list(scores) == sorted(scores)


def test_failures_count_as_slow_and_old_features_not_at_all(
    tasks: tuple[TuningTask, ...],
) -> None:
    task = tasks[0]
    first, second, third = list(task.candidates)[:3]
    rows = [record(task, first, 1.0), record(task, second, None), record(task, third, 2.0)]
    inputs, slower = table([*rows, replace(rows[0], features=(1.0,))])
    assert len(inputs) == 3
    assert slower[0] == 0.0
    assert slower[1] > slower[2] > 0
