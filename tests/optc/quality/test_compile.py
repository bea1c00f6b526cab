"""`optc.compile` with data in memory: what the artifact loses, and whether the budget holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import optc
from optc.ir.diagnostics import OptcError
from optc.ir.text import parse
from optc.passes.quality import Verdict

TEXT = """module @m {
  input x : 4x16xf32
  output y : 4x8xf32
  flow {
    y = run @main(x)
  }
  graph @main(%x: 4x16xf32) {
    %w = constant {seed=1} : 8x16xf32
    %y = linear(%x, %w) : 4x8xf32
    return %y
  }
}"""


def test_the_artifact_is_judged_on_arrays(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((300, 16)).astype(np.float32)
    labels = draw.integers(0, 8, 300)

    def batches() -> list[tuple[np.ndarray, np.ndarray]]:
        return [(x[i : i + 70], labels[i : i + 70]) for i in range(0, 300, 70)]

    made = [
        optc.compile(parse(TEXT), out=tmp_path / name, data=data, metric="top5", accuracy_drop=0.02)
        for name, data in (("arrays", {"x": x, "labels": labels}), ("function", batches))
    ]
    found = made[0].quality
    assert found is not None
    assert (found.verdict, found.ran, found.difference.drop) == (Verdict.HELD, "the artifact", 0)
    assert made[1].quality is not None
    assert made[1].quality.difference == found.difference
    lock = json.loads((tmp_path / "arrays" / "lock.json").read_text())
    assert lock["data"]["source"] == "arrays in memory"
    assert lock["data"]["samples"] == 300
    assert lock["data"]["accuracy_drop"] == 0.02


def test_data_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptcError, match="Nx15"):
        optc.compile(parse(TEXT), out=tmp_path / "out", data={"x": np.zeros((9, 15), np.float32)})
    assert not (tmp_path / "out").exists()
