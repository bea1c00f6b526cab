"""`optc route`: two models, a decision and a threshold; what it says and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optc.runtime import load
from tests.cli.conftest import Optc

SMALL = """graph @main(%x: ROWSx8xf32) {
  %w = constant {seed=1} : 5x8xf32
  %y = linear(%x, %w) : ROWSx5xf32
  return %y
}
"""
LARGE = """graph @main(%x: ROWSx8xf32) {
  %a = constant {seed=1} : 5x8xf32
  %b = constant {seed=3} : 512x8xf32
  %c = constant {seed=4} : 5x512xf32
  %d = constant {splat=0.002} : 1x1xf32
  %y = linear(%x, %a) : ROWSx5xf32
  %h = linear(%x, %b) : ROWSx512xf32
  %r = relu(%h) : ROWSx512xf32
  %o = linear(%r, %c) : ROWSx5xf32
  %s = mul(%o, %d) : ROWSx5xf32
  %z = add(%y, %s) : ROWSx5xf32
  return %z
}
"""


@pytest.fixture
def models() -> None:
    """Small and large models for calls of one, two and four rows, and data, in this folder."""
    for name, text in (("small", SMALL), ("large", LARGE)):
        for rows in (1, 2, 4):
            Path(f"{name}{rows}.optc").write_text(module(text.replace("ROWS", str(rows)), rows))
    x = np.random.default_rng(0).standard_normal((3000, 8)).astype(np.float32)
    np.savez("data.npz", x=x)


def module(graph: str, rows: int) -> str:
    body = "\n".join(f"  {line}" for line in graph.strip().splitlines())
    return f"""module @m {{
  input x : {rows}x8xf32
  output scores : {rows}x5xf32
  flow {{
    scores = run @main(x)
  }}
{body}
}}
"""


@pytest.mark.parametrize(("small", "large"), [(1, 1), (4, 2)])
def test_rows_are_routed(optc: Optc, models: None, small: int, large: int) -> None:
    """The budget is held, the small model answers some calls, and the table says so."""
    files = f"small{small}.optc", f"large{large}.optc"
    options = "--data", "data.npz", "--decision", "margin", "--accuracy-drop", "5%"
    found = optc("route", *files, "-o", "out", *options)
    assert found.code == 0, found.err
    assert "accuracy budget" in found.out
    assert "small" in found.out
    with load("out") as artifact:
        assert list(artifact.parameters) == ["small.threshold"]
        assert len(artifact.exits) == small // large


def test_a_threshold_by_hand_needs_no_data(optc: Optc, models: None) -> None:
    found = optc("route", "small1.optc", "large1.optc", "-o", "out", "--threshold", "2.5")
    assert found.code == 0, found.err
    again = optc("bench", "out", "--threshold", "never")
    assert again.code == 0, again.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("small1.optc", "large1.optc"), "E0703"),
        (("small2.optc", "large4.optc", "--threshold", "1"), "E0767"),
    ],
)
def test_what_cannot_be_routed_is_refused(
    optc: Optc, models: None, words: tuple[str, ...], code: str
) -> None:
    found = optc("route", *words, "-o", "out")
    assert found.code == 1
    assert found.diagnostics == [code]
    assert not Path("out").exists()


def test_a_routed_artifact_cannot_be_made_again_from_one_model(optc: Optc, models: None) -> None:
    """The outputs are compared; who is to blame cannot be told, which is said so."""
    made = optc("route", "small1.optc", "large1.optc", "-o", "out", "--threshold", "2.5")
    assert made.code == 0, made.err
    found = optc("diff", "large1.optc", "out", "--scale", "1e-9")
    assert found.code == 1
    assert found.diagnostics == ["E0729"]
    assert "help: optc eval out --data DATA --against MODEL" in found.err
