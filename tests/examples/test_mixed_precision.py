"""The example of mixed precision does what it says."""

from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "mixed_precision.py"


def test_bytes_are_smaller_and_a_plan_is_smaller_still(tmp_path: Path) -> None:
    found = runpy.run_path(str(EXAMPLE))["main"](tmp_path)
    assert found.keys() == {"f32", "int8", "mixed"}
    (whole, wanted), (eighth, in_bytes), (mixed, planned) = found.values()
    assert eighth < 0.4 * whole
    assert mixed < eighth
    assert min(in_bytes, planned) > wanted - 0.02
