"""Two models behind one flow: never is the large one, always the small one, energy decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optc.backends.reference.evaluate import run
from optc.ir.diagnostics import OptcError
from optc.ir.printer import print_module
from optc.ir.text import parse
from optc.ir.verify import verify
from optc.passes.early_exit.decision import Decision, scores
from optc.passes.early_exit.route import Route, routed

SMALL = """graph @main(%x: 2x8xf32) {
  %w = constant {seed=1} : 5x8xf32
  %y = linear(%x, %w) : 2x5xf32
  return %y
}
"""
LARGE = """graph @main(%x: 2x8xf32) {
  %a = constant {seed=2} : 64x8xf32
  %b = constant {seed=3} : 5x64xf32
  %h = linear(%x, %a) : 2x64xf32
  %r = relu(%h) : 2x64xf32
  %y = linear(%r, %b) : 2x5xf32
  return %y
}
"""


def test_the_small_model_answers_where_it_is_sure() -> None:
    small, large = parse(SMALL), parse(LARGE)
    seen = set()
    for seed in range(20):
        x = {"x": torch.randn((2, 8), generator=torch.Generator().manual_seed(seed))}
        answers = {"small": run(small, x).outputs["y"], "": run(large, x).outputs["y"]}
        energy = scores(Decision.ENERGY, answers["small"].numpy(), 1.0).min()
        for threshold in (-np.inf, 1.8, np.inf):
            module = routed(small, large, Route("y", threshold=float(threshold)))
            assert verify(module) == ()
            found = run(module, x)
            assert found.exit == ("small" if energy >= threshold else "")
            assert torch.equal(found.outputs["y"], answers[found.exit])
            seen.add((threshold, found.exit))
    assert {(1.8, "small"), (1.8, "")} <= seen


def test_it_prints_and_parses() -> None:
    text = print_module(routed(parse(SMALL), parse(LARGE), Route("y")))
    assert print_module(parse(text)) == text


@pytest.mark.parametrize(
    ("small", "output"),
    [(SMALL.replace("2x8", "3x8").replace("2x5", "3x5"), "y"), (SMALL, "nobody")],
)
def test_models_that_do_not_fit_are_refused(small: str, output: str) -> None:
    with pytest.raises(OptcError, match="E0767"):
        routed(parse(small), parse(LARGE), Route(output))
