"""A share, or a set of its own, to learn from: what passes see, what judges, what is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import optc
from optc.ir.diagnostics import OptcError
from optc.passes.quality import Part
from optc.quality.evidence import DataRequest, Evidence
from optc.quality.learning import Learning
from optc.replay import Given, evidence_of
from tests.optc.quality.test_judge import MODULE, OTHER, arrays

Arrays = dict[str, NDArray[Any]]


def sets(labelled: bool = True) -> tuple[Arrays, Arrays]:
    """To learn from, and to judge by: the labels of the second are half wrong."""
    whole = arrays(90)
    learn = {name: array[:40] for name, array in whole.items()}
    judge = {name: array[40:] for name, array in whole.items()}
    judge["labels"] = np.where(np.arange(50) % 2, judge["labels"], 0)
    return (learn if labelled else {"x": learn["x"]}), judge


def evidence(learn: Arrays, judge: Arrays, **asked: Any) -> Evidence:
    return Evidence(MODULE, DataRequest(judge, calibration_data=learn, **asked))


def test_passes_see_one_set_and_the_other_judges() -> None:
    found = evidence(*sets())
    assert found.calibration.batches.samples == 40
    assert found.judge.compare(OTHER).after.samples == 50
    assert found.judge.compare(OTHER).before.value < 1
    assert found.judge.compare(OTHER, Part.CALIBRATION).before.value == 1
    assert not found.diagnostics


def test_without_labels_passes_are_judged_by_agreement() -> None:
    found, labelled = evidence(*sets(labelled=False)), evidence(*sets())
    (finding,) = found.diagnostics
    assert finding.code == "N0753"
    learnt = found.judge.compare(OTHER, Part.CALIBRATION)
    assert learnt.after.metric == "agreement with the original"
    assert found.judge.quality(OTHER, Part.CALIBRATION) == learnt.after
    # Its labels are what the original says, so that accuracy loses as much.
    assert learnt.drop == labelled.judge.compare(OTHER, Part.CALIBRATION).drop > 0
    assert found.judge.compare(OTHER) == labelled.judge.compare(OTHER)
    given = np.random.default_rng(3).standard_normal((2, 9, 3))
    lost = found.judge.losses(given[0], given[1], None)
    assert (lost == (given[0].argmax(-1) != given[1].argmax(-1))).all()


@pytest.mark.parametrize("metric", ["perplexity"])
def test_a_loss_of_labels_needs_them(metric: str) -> None:
    with pytest.raises(OptcError, match="E0744"):
        evidence(*sets(labelled=False), metric=metric)


def test_labels_beside_the_set_are_found_by_name_or_file(tmp_path: Path) -> None:
    learn, judge = sets()
    np.save(tmp_path / "truth.npy", learn["labels"])
    named = [
        {("right" if name == "labels" else name): array for name, array in arrays.items()}
        for arrays in (learn, judge)
    ]
    for found in (
        evidence(named[0], named[1], labels="right"),
        evidence({"x": learn["x"]}, judge, calibration_labels=str(tmp_path / "truth.npy")),
    ):
        assert found.calibration.batches.labelled
    assert not evidence({"x": learn["x"]}, named[1], labels="right").calibration.batches.labelled
    with pytest.raises(OptcError, match="E0744"):
        evidence({**learn, "labels": learn["x"]}, judge, metric="accuracy")


def test_a_share_is_how_much_is_learnt_from() -> None:
    for share, learnt in ((None, 30), (0.1, 10), (0.7, 70)):
        request = Learning(share=share).of(DataRequest(arrays(100)))
        assert Evidence(MODULE, request).calibration.batches.samples == learnt


@pytest.mark.parametrize(
    ("asked", "judged"),
    [
        (Learning(share=0.25), True),
        (Learning(share=1.0), True),
        (Learning(share=0.0), True),
        (Learning("calib.npz", share=0.5), True),
        (Learning(labels="labels.npy"), True),
        (Learning("calib.npz"), False),
        (Learning(share=0.5), False),
    ],
)
def test_what_contradicts_itself_is_refused(asked: Learning, judged: bool) -> None:
    def taken() -> DataRequest:
        asked.check(judged=judged)
        return asked.of(DataRequest(arrays()))

    with pytest.raises(OptcError, match="E0703"):
        taken()


def test_an_artifact_says_what_it_learnt_from(tmp_path: Path) -> None:
    learn, judge = sets()
    learn["x"][:3] = judge["x"][7]  # one sample, three times
    for name, given in (("learn", learn), ("judge", judge)):
        np.savez(tmp_path / f"{name}.npz", **given)
    made = optc.compile(
        MODULE,
        out=tmp_path / "out",
        passes="quantize",
        data=tmp_path / "judge.npz",
        calibration_data=tmp_path / "learn.npz",
    )
    assert [d.code for d in made.diagnostics if d.code == "W0751"] == ["W0751"]
    assert made.quality is not None
    assert made.quality.difference.after.samples == 50
    lock = json.loads((tmp_path / "out" / "lock.json").read_text())
    record = lock["data"]["calibration_data"]
    assert (record["calibration"], record["shared"], record["source"]) == (37, 3, "learn.npz")
    names = made.manifest["metadata"]
    assert names["calibration_data"] == record["digest"][:16] != names["data"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert record["digest"][:16] in page
    assert "37\nsamples of <code>learn.npz</code>" in page
    places = [str(tmp_path / f"{name}.npz") for name in ("judge", "learn")]
    again = evidence_of(MODULE, lock, Given(places[0], calibration_data=places[1]))
    assert again is not None
    assert again.record() == lock["data"]
    for wrong in (Given(places[0]), Given(places[1], calibration_data=places[0])):
        with pytest.raises(OptcError, match="E0728"):
            evidence_of(MODULE, lock, wrong)


@pytest.mark.parametrize("separate", [True, False])
def test_samples_that_hold_nan_are_counted(separate: bool) -> None:
    """In either set; infinities are masks, and say nothing."""
    learn, judge = sets()
    learn["x"], judge["x"] = learn["x"].copy(), judge["x"].copy()
    learn["x"][[3, 4], 1] = np.nan
    judge["x"][7] = np.nan
    judge["x"][8] = -np.inf
    found = evidence(learn, judge) if separate else Evidence(MODULE, DataRequest(judge))
    assert {item.code for item in found.diagnostics} == {"W0756"}
    counts = [item.message.partition(" samples")[0] for item in found.diagnostics]
    assert counts == (["2 of 40", "1 of 50"] if separate else ["1 of 50"])


def test_a_range_of_nothing_finite_is_the_data_s_fault() -> None:
    learn, judge = sets()
    learn["x"] = np.full_like(learn["x"], np.nan)
    calibration = evidence(learn, judge).calibration
    with pytest.raises(OptcError, match="NaN or infinite") as caught:
        calibration.statistics(MODULE, [MODULE.graphs[0].outputs[0]])
    (finding,) = caught.value.diagnostics
    assert finding.code == "E0757"
    assert finding.help


def test_labels_of_text_are_told_how_to_become_numbers() -> None:
    data = {**arrays(), "labels": np.array(["cat", "dog", "cow"] * 34)[:101]}
    with pytest.raises(OptcError, match="not numbers") as caught:
        Evidence(MODULE, DataRequest(data))
    (finding,) = caught.value.diagnostics
    assert finding.code == "E0744"
    assert "return_inverse" in finding.help
