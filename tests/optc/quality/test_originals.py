"""The original is run once for a question, whoever asks again; another question runs it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optc.ir.module import Module
from optc.passes.quality import Difference, Part
from optc.quality import evidence as place
from optc.quality.evidence import DataRequest, Evidence
from optc.quality.runners import reference
from tests.optc.quality.test_judge import MODULE, OTHER, arrays


def half() -> dict[str, NDArray[Any]]:
    """Labels of which the original has some, not all."""
    given = arrays()
    return {**given, "labels": np.where(np.arange(101) % 3, given["labels"], 0)}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Module]:
    """The modules that were made runnable as originals and then were run."""
    seen: list[Module] = []

    def noted(module: Module):  # type: ignore[no-untyped-def]
        run = reference(module)

        def walk(calls):  # type: ignore[no-untyped-def]
            seen.append(module)
            return run(calls)

        return walk

    monkeypatch.setattr(place, "reference", noted)
    return seen


def compared(folder: Path | None, request: DataRequest, *, original: Module = MODULE) -> Difference:
    judge = Evidence(original, request, folder).judge
    judge.compare(OTHER, Part.HELD_OUT, calls=(0, 3, 5))
    return judge.compare(OTHER)


def test_a_second_compilation_does_not_run_the_original(tmp_path: Path, runs: list[Module]) -> None:
    request = DataRequest(half(), None, "accuracy", 0.01)
    first = compared(tmp_path, request)
    assert runs == [MODULE, MODULE]  # some calls, and all
    assert compared(tmp_path, request) == first == compared(None, request)
    assert runs == [MODULE] * 4  # without a folder nothing is kept


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"limit": 60},
        {"metric": "f1"},
        {"data": {**half(), "labels": arrays()["labels"]}},
        {"data": {**half(), "x": -half()["x"]}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_question_is_another_answer(
    other: dict[str, Any], tmp_path: Path, runs: list[Module]
) -> None:
    request = DataRequest(half(), None, "accuracy", 0.01)
    compared(tmp_path, request)
    changed = replace(request, **other)
    assert compared(tmp_path, changed) == compared(None, changed)
    assert len(runs) == 6


def test_another_original_and_a_metric_of_ones_own_are_run(
    tmp_path: Path, runs: list[Module]
) -> None:
    request = DataRequest(half(), None, "accuracy", 0.01)
    compared(tmp_path, request)
    compared(tmp_path, request, original=OTHER)
    assert len(runs) == 4
    own = replace(request, metric="tests.optc.quality.test_originals:right", budget=None)
    for _ in range(2):
        compared(tmp_path, own)
    assert len(runs) == 8


def right(outputs: dict[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[Any]:
    """A metric of the user's."""
    found: NDArray[Any] = (outputs["y"].argmax(-1) == labels).astype(np.float64)
    return found
