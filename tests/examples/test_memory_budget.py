"""The example runs: within a third of the memory, the same answers."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "memory_budget.py"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    text = capsys.readouterr().out
    whole, small = (float(found) for found in re.findall(r"holds +([\d.]+) MB", text))
    assert whole > 12
    assert small < 8
    assert "answers to 50 images are the same" in text
