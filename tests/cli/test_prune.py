"""Pruning on the command line, by what the user's data says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.conftest import Optc

STEP = "prune-channels{ratio=0.5,criterion=taylor}"


@pytest.fixture
def here() -> None:
    """`m.pt2`, a classifier, and `calib.npz` with samples and labels, in the working folder."""
    torch.manual_seed(0)
    n = torch.nn
    model = n.Sequential(n.Linear(12, 32), n.ReLU(), n.Linear(32, 4)).eval()
    torch.export.save(torch.export.export(model, (torch.zeros(4, 12),)), "m.pt2")
    draw = np.random.default_rng(0)
    x = draw.standard_normal((200, 12)).astype(np.float32)
    np.savez("calib.npz", input=x, labels=draw.integers(0, 4, 200))


def test_channels_are_scored_on_the_data(optc: Optc, here: None) -> None:
    arguments = ["compile", "m.pt2", "-o", "o", "--no-bench", "-p", STEP, "--data", "calib.npz"]
    result = optc(*arguments)
    assert result.code == 0, result.err
    lock = json.loads(Path("o", "lock.json").read_text())
    assert any("criterion=taylor" in step for step in lock["passes"])
    report = Path("o", "report.html").read_text()
    assert "16 of 32 channels of linear removed" in report


def test_without_data_nothing_is_made(optc: Optc, here: None) -> None:
    result = optc("compile", "m.pt2", "-o", "o", "--no-bench", "-p", STEP)
    assert (result.code, result.diagnostics) == (1, ["E0134"])
    assert "--data calib.npz" in result.err
    assert not Path("o").exists()


def test_a_pass_that_did_nothing_is_named(optc: Optc, here: None) -> None:
    """What a user wrote down and did not get is no remark: there are no heads in this model."""
    step = "prune-heads{ratio=0.5}"
    result = optc("compile", "m.pt2", "-o", "o", "--no-bench", "-p", f"remove-dead,{step}")
    assert (result.code, result.diagnostics) == (0, ["W0755"])
    assert f"{step} changed nothing" in result.err
    assert "help: optc passes prune-heads" in result.err
