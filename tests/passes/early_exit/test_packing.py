"""Packed rows: each row is answered as it would be alone, and no more of the large model runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import optc
from optc.backends.reference.evaluate import run
from optc.ir.diagnostics import OptcError
from optc.ir.module import Module
from optc.ir.printer import print_module
from optc.ir.text import parse
from optc.ir.verify import verify
from optc.passes.early_exit.decision import Decision, scores
from optc.passes.early_exit.packing import Packing, in_groups
from optc.passes.early_exit.route import Route, routed

ROWS, SIZE = 6, 2


def small(rows: int = ROWS) -> Module:
    return parse(f"""graph @main(%x: {rows}x8xf32) {{
  %w = constant {{seed=1}} : 5x8xf32
  %y = linear(%x, %w) : {rows}x5xf32
  return %y
}}
""")


def large(rows: int = SIZE) -> Module:
    return parse(f"""graph @main(%x: {rows}x8xf32) {{
  %a = constant {{seed=2}} : 64x8xf32
  %b = constant {{seed=3}} : 5x64xf32
  %h = linear(%x, %a) : {rows}x64xf32
  %r = relu(%h) : {rows}x64xf32
  %y = linear(%r, %b) : {rows}x5xf32
  return %y
}}
""")


def inputs(seed: int) -> torch.Tensor:
    return torch.randn((ROWS, 8), generator=torch.Generator().manual_seed(seed))


def wanted(x: torch.Tensor, threshold: float) -> tuple[np.ndarray, int]:
    """Row by row with the two models alone, and how many rows are not sure."""
    mine = run(small(), {"x": x}).outputs["y"].numpy()
    theirs = run(large(ROWS), {"x": x}).outputs["y"].numpy()
    sure = scores(Decision.ENERGY, mine, 1.0) >= threshold
    return np.where(sure[:, None], mine, theirs), int((~sure).sum())


def exit_after(hard: int) -> str:
    """The exit of a call with so many unsure rows."""
    groups = -(-hard // SIZE)
    return ["small", "packed_1", "packed_2", ""][groups]


@pytest.mark.parametrize("threshold", [-np.inf, 1.0, 1.8, 2.5, np.inf])
def test_each_row_is_answered_as_if_alone(threshold: float) -> None:
    module = routed(small(), large(), Route("y", threshold=float(threshold)))
    assert verify(module) == ()
    assert print_module(parse(print_module(module))) == print_module(module)
    for seed in range(12):
        x = inputs(seed)
        answer, hard = wanted(x, threshold)
        found = run(module, {"x": x})
        assert found.exit == exit_after(hard)
        np.testing.assert_allclose(found.outputs["y"].numpy(), answer, atol=1e-5)


def test_the_artifact_packs_and_counts(tmp_path: Path) -> None:
    """One kernel of the large model for all groups; its runs are those that the exits leave."""
    module = routed(small(), large(), Route("y", threshold=1.8))
    built = optc.compile(module, "host", out=tmp_path / "out")
    alone = optc.compile(large(), "host", out=tmp_path / "large")
    weights = [b.manifest["weights_bytes"] for b in (built, alone)]
    assert weights[0] < 1.5 * weights[1]
    counts = dict.fromkeys(("small", "packed_1", "packed_2", ""), 0)
    with optc.load(built.path) as artifact:
        for seed in range(40):
            x = inputs(seed)
            answer, hard = wanted(x, 1.8)
            np.testing.assert_allclose(artifact(x.numpy()), answer, atol=1e-5)
            counts[exit_after(hard)] += 1
        assert {**artifact.exit_runs()} == {n: c for n, c in counts.items() if n}
    assert min(counts["packed_1"], counts["packed_2"]) > 0


def test_a_model_in_groups_is_the_model_for_more_rows() -> None:
    module = in_groups(large(), Packing(ROWS, SIZE))
    assert verify(module) == ()
    x = inputs(0)
    found = run(module, {"x": x}).outputs["y"]
    torch.testing.assert_close(found, run(large(ROWS), {"x": x}).outputs["y"])


@pytest.mark.parametrize("rows", [4, 8])
def test_batches_that_do_not_divide_are_refused(rows: int) -> None:
    with pytest.raises(OptcError, match="E0767"):
        routed(small(), large(rows), Route("y"))
