"""Quantization on the command line: from a file and data to an artifact of integers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.conftest import Optc


@pytest.fixture
def here() -> None:
    """`m.pt2`, a small convolutional classifier, and `calib.npz`, in the working folder."""
    torch.manual_seed(0)
    n = torch.nn
    body = [n.Conv2d(3, 16, 3, padding=1), n.ReLU(), n.Conv2d(16, 16, 3, padding=1), n.ReLU()]
    model = n.Sequential(*body, n.MaxPool2d(2), n.Flatten(), n.Linear(16 * 16, 5)).eval()
    torch.export.save(torch.export.export(model, (torch.zeros(4, 3, 8, 8),)), "m.pt2")
    x = np.random.default_rng(0).standard_normal((120, 3, 8, 8)).astype(np.float32)
    np.savez("calib.npz", input=x)


def compiled(optc: Optc, passes: str, *more: str) -> tuple[Path, str]:
    """An artifact made with a pipeline, and its report."""
    result = optc("compile", "m.pt2", "-o", "o", "--no-bench", "-p", passes, *more)
    assert result.code == 0, result.err
    return Path("o"), Path("o", "report.html").read_text()


def test_static_integers_from_a_file_to_an_artifact(optc: Optc, here: None) -> None:
    out, report = compiled(optc, "quantize", "--data", "calib.npz", "--metric", "cosine")
    assert "3 of 3 layers quantized" in report
    last = sorted(Path(out, "graphs").iterdir())[-1].read_text()
    assert "xi32" in last
    assert "requantize" in last
    assert json.loads((out / "lock.json").read_text())["passes"].count("quantize") == 1


def test_a_layer_by_name_stays_in_floats_and_says_so(optc: Optc, here: None) -> None:
    _, report = compiled(optc, "quantize{keep_float=(0)}", "--data", "calib.npz")
    assert "2 of 3 layers quantized" in report
    assert "keep_float=0" in report


def test_bits_by_the_layer_within_a_budget(optc: Optc, here: None) -> None:
    """Half bytes in the file, as int8 of the same kernels shows; a reason for every layer."""
    given = ("--data", "calib.npz", "--metric", "cosine", "--accuracy-drop", "5%")
    out, report = compiled(optc, "assign-precision{objective=size}", *given)
    assert "4-bit weights: " in report
    mixed = (out / "weights.bin").stat().st_size
    out, _ = compiled(optc, "quantize", "--no-judge-passes", *given)
    assert mixed < 0.6 * (out / "weights.bin").stat().st_size


@pytest.mark.parametrize("bits", [8, 4])
def test_small_weights_need_no_data(optc: Optc, here: None, bits: int) -> None:
    out, _ = compiled(optc, f"quantize-weights{{bits={bits}}}")
    floats = 4 * (3 * 16 * 9 + 16 * 16 * 9 + 5 * 256)
    assert (out / "weights.bin").stat().st_size < floats * (0.5 if bits == 8 else 0.4)


def test_without_data_nothing_is_made(optc: Optc, here: None) -> None:
    result = optc("compile", "m.pt2", "-o", "o", "--no-bench", "-p", "quantize")
    assert (result.code, result.diagnostics) == (1, ["E0134"])
    assert not Path("o").exists()


def test_a_wrong_observer_names_the_right_ones(optc: Optc, here: None) -> None:
    result = optc("compile", "m.pt2", "-o", "o", "-p", "quantize{observer=entropy}")
    assert (result.code, result.diagnostics) == (1, ["E0132"])


def test_what_a_lossy_pass_costs_is_shown_and_blames_nobody(optc: Optc, here: None) -> None:
    compiled(optc, "quantize", "--data", "calib.npz")
    result = optc("diff", "m.pt2", "o", "--data", "calib.npz")
    assert (result.code, result.diagnostics) == (0, [])
    assert "differs" in result.out
    assert "agrees" in result.out
    words = " ".join(result.out.split())
    assert "is what quantize costs on these inputs" in words


def test_a_wrong_pass_behind_a_lossy_one_is_found(
    optc: Optc, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that turns relu into abs is planted behind the quantized model."""
    from optc.passes import catalogue

    place = "tests.cli.test_models:Exchange"
    monkeypatch.setattr(catalogue, "BUILT_IN", {**catalogue.BUILT_IN, "exchange": place})
    compiled(optc, "quantize-weights,exchange", "--data", "calib.npz")
    result = optc("diff", "m.pt2", "o", "--data", "calib.npz")
    assert (result.code, result.diagnostics) == (1, ["E0721"])
    assert "after pass exchange" in result.err
