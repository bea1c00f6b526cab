"""What passes learn from, on the command line: a share of the data, or a set of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import MLP, Optc

COMPILE = ("compile", "m.optc", "-o", "o", "--no-bench", "-p", "quantize")


@pytest.fixture
def here() -> None:
    """`m.optc`, and `calib.npz` with 40 samples of which `both.npz` has 4 and `test.npz` none."""
    Path("m.optc").write_text(MLP)
    x = np.random.default_rng(0).standard_normal((100, 16)).astype(np.float32)
    np.savez("calib.npz", x=x[:40])
    np.savez("test.npz", x=x[40:])
    np.savez("both.npz", x=x[36:])


def learnt(folder: str = "o") -> dict[str, Any]:
    """What the lock says about the data."""
    return dict(json.loads(Path(folder, "lock.json").read_text())["data"])


def test_a_set_of_its_own(optc: Optc, here: None) -> None:
    result = optc(*COMPILE, "--data", "test.npz", "--calibration-data", "calib.npz")
    assert (result.code, result.diagnostics) == (0, []), result.err
    data = learnt()
    assert (data["held_out"], data["calibration_data"]["calibration"]) == (60, 40)
    report = Path("o", "report.html").read_text()
    assert "all of them held out" in report
    assert "samples of <code>calib.npz</code>" in report
    again = optc("eval", "o", "--against", "m.optc", "--data", "test.npz")
    assert again.diagnostics == []
    assert " 60 " in again.out
    known = optc("eval", "o", "--against", "m.optc", "--data", "calib.npz")
    assert (known.code, known.diagnostics) == (0, ["W0752"])
    diff = optc(*("diff", "m.optc", "o", "--data", "test.npz"), "--calibration-data", "calib.npz")
    assert diff.code == 0, diff.err
    refused = optc("diff", "m.optc", "o", "--data", "test.npz")
    assert refused.diagnostics == ["E0728"]
    assert "--data test.npz --calibration-data calib.npz" in refused.err


def test_sets_that_overlap(optc: Optc, here: None) -> None:
    result = optc(*COMPILE, "--data", "both.npz", "--calibration-data", "calib.npz")
    assert (result.code, result.diagnostics) == (0, ["W0751"])
    assert "4 of 40 samples of calib.npz are in both.npz too" in result.err
    assert (learnt()["held_out"], learnt()["calibration_data"]["calibration"]) == (64, 36)
    refused = optc(*COMPILE, "--data", "test.npz", "--calibration-data", "test.npz")
    assert (refused.code, refused.diagnostics) == (1, ["E0750"])


def test_a_share(optc: Optc, here: None) -> None:
    result = optc(*COMPILE, "--data", "test.npz", "--calibration-share", "70%")
    assert (result.code, result.diagnostics) == (0, []), result.err
    assert (learnt()["calibration"], learnt()["split"]["calibration"]) == (42, 7)
    # What passes learnt from is known by the artifact, not by the split of the command.
    again = optc("eval", "o", "--against", "m.optc", "--data", "test.npz")
    assert "on the held-out part" in again.out
    assert " 18 " in again.out
    assert optc("diff", "m.optc", "o", "--data", "test.npz").code == 0


def test_two_models_learn_from_a_set_of_its_own(optc: Optc, here: None) -> None:
    sets = ("--data", "test.npz", "--calibration-data", "calib.npz")
    result = optc("route", "m.optc", "m.optc", "-o", "o", "--no-bench", *sets, "--threshold", "0")
    assert result.code == 0, result.err
    assert learnt()["calibration_data"]["source"] == "calib.npz"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--calibration-data", "calib.npz"], "E0703", "--data"),
        (["--calibration-share", "50%"], "E0703", "--data"),
        (["--data", "test.npz", "--calibration-share", "25%"], "E0703", "10 %, 20 %"),
        (["--data", "test.npz", "--calibration-share", "100%"], "E0703", "10 %, 20 %"),
        (["--data", "test.npz", "--calibration-labels", "l.npy"], "E0703", "--calibration-data"),
        (
            ["--data", "test.npz", "--calibration-data", "calib.npz", "--calibration-share", "50%"],
            "E0703",
            "leave out one",
        ),
        (["--data", "test.npz", "--calibration-data", "none.npz"], "E0740", "none.npz"),
    ],
)
def test_bad_input(optc: Optc, here: None, arguments: list[str], code: str, words: str) -> None:
    result = optc(*COMPILE, *arguments)
    assert (result.code, result.diagnostics) == (1, [code])
    assert words in result.err
    assert not Path("o").exists()


def test_a_budget_that_nothing_spends(optc: Optc, here: None) -> None:
    """Who allows a loss expects something for it."""
    plain = ("compile", "m.optc", "-o", "o", "--no-bench", "--data", "calib.npz")
    result = optc(*plain, "--accuracy-drop", "100%")
    assert (result.code, result.diagnostics) == (0, ["W0754"])
    assert "help: -p assign-precision" in result.err
    spent = optc(*plain, "--accuracy-drop", "100%", "-p", "quantize-weights")
    assert (spent.code, spent.diagnostics) == (0, [])
