"""The example runs, and does what it says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "early_exits" / "early_exits.py"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    text = capsys.readouterr().out
    early = [int(count) for count in re.findall(r"(\d+) of 200 left early", text)]
    assert len(early) == 3
    assert early[0] == 200  # always
    assert 0 < early[1] <= 200
    assert early[2] == 0  # never
