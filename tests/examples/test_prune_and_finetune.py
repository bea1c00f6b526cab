"""The example runs, and fine-tuning brings back what pruning lost."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.structure.tree import ROOT


def test_pruned_fine_tuned_and_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ROOT / "examples/prune_and_finetune.py"
    spec = importlib.util.spec_from_file_location("prune_and_finetune", place)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found = example.main(tmp_path)
    assert found["pruned"] < found["whole"]
    assert found["tuned"] > max(found["pruned"] + 0.05, found["whole"] - 0.03)
    assert "32 of 64 channels of conv removed" in capsys.readouterr().out
    whole, tuned = (tmp_path / name / "weights.bin" for name in ("whole", "tuned"))
    assert tuned.stat().st_size < 0.6 * whole.stat().st_size
