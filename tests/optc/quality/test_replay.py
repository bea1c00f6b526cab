"""What an artifact's lock says about data is enough to run its passes again, on that data only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optc.ir.diagnostics import OptcError
from optc.ir.text import parse
from optc.quality.evidence import DataRequest, Evidence
from optc.replay import Given, evidence_of

TEXT = """module @m {
  input x : 4x6xf32
  output y : 4x3xf32
  flow {
    y = run @main(x)
  }
  graph @main(%x: 4x6xf32) {
    %w = constant {seed=1} : 3x6xf32
    %y = linear(%x, %w) : 4x3xf32
    return %y
  }
}"""
MODULE = parse(TEXT)


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A lock that a compilation with a lossy pass and `calib.npz` would write."""
    monkeypatch.chdir(tmp_path)
    np.savez("calib.npz", x=np.ones((40, 6), np.float32), labels=np.arange(40) % 3)
    request = DataRequest("calib.npz", None, "f1", 0.01, 30, 7)
    passes = ["canonicalize", "prune-channels"]
    return {"passes": passes, "data": Evidence(MODULE, request).record()}


def test_the_same_data_is_asked_the_same(lock: dict[str, Any]) -> None:
    found = evidence_of(MODULE, lock, Given("calib.npz"))
    assert found is not None
    assert found.record() == lock["data"]
    assert found.judge.metric == "f1"


def test_data_that_is_missing_or_another(lock: dict[str, Any]) -> None:
    np.savez("other.npz", x=np.zeros((40, 6), np.float32), labels=np.arange(40) % 3)
    for data in (None, "other.npz"):
        with pytest.raises(OptcError) as caught:
            evidence_of(MODULE, lock, Given(data))
        (finding,) = caught.value.diagnostics
        assert (finding.code, finding.help) == ("E0728", "--data calib.npz")


def test_passes_that_learn_nothing_need_no_data(lock: dict[str, Any]) -> None:
    assert evidence_of(MODULE, {**lock, "passes": ["canonicalize", "fuse"]}, Given()) is None
    assert evidence_of(MODULE, {"passes": ["prune-channels"]}, Given()) is None
