"""Pruning by what the loss would lose: on trained networks, with labels and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import optc
from optc.backends.reference.fold import evaluate_constants
from optc.ir.diagnostics import OptcError
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.base import PassContext
from optc.passes.pipeline import Pipeline
from optc.quality.evidence import DataRequest, Evidence

IMAGES, LABELS = load_digits(return_X_y=True)
PIXELS = (IMAGES / 16).astype(np.float32)
TRAINED = 900  # samples; the others are the user's data
LINEAR = """graph @main(%x: 4x6xf32) {
  %w = constant {values=(WIDE)} : 8x6xf32
  %v = constant {values=(READER)} : 3x8xf32
  %a = linear(%x, %w) : 4x8xf32
  %r = relu(%a) : 4x8xf32
  %y = linear(%r, %v) : 4x3xf32
  return %y
}
"""
CONV = """graph @main(%x: 4x6x1x1xf32) {
  %w = constant {values=(WIDE)} : 8x6x1x1xf32
  %mean = constant {splat=0.5} : 8xf32
  %variance = constant {splat=2.0} : 8xf32
  %scale = constant {splat=1.0} : 8xf32
  %bias = constant {splat=0.1} : 8xf32
  %v = constant {values=(READER)} : 3x8x1x1xf32
  %a = conv(%x, %w) : 4x8x1x1xf32
  %n = batch_norm(%a, %mean, %variance, %scale, %bias) : 4x8x1x1xf32
  %r = relu(%n) : 4x8x1x1xf32
  %c = conv(%r, %v) : 4x3x1x1xf32
  %y = reshape(%c) {shape=(4, 3)} : 4x3xf32
  return %y
}
"""
HEADS = """graph @main(%x: 4x6xf32) {
  %q = constant {seed=1} : 8x6xf32
  %k = constant {seed=2} : 8x6xf32
  %w = constant {values=(WIDE)} : 8x6xf32
  %v = constant {values=(READER)} : 3x8xf32
  %q0 = linear(%x, %q) : 4x8xf32
  %q1 = reshape(%q0) {shape=(4, 4, 2)} : 4x4x2xf32
  %q2 = transpose(%q1) {perm=(1, 0, 2)} : 4x4x2xf32
  %k0 = linear(%x, %k) : 4x8xf32
  %k1 = reshape(%k0) {shape=(4, 4, 2)} : 4x4x2xf32
  %k2 = transpose(%k1) {perm=(1, 0, 2)} : 4x4x2xf32
  %v0 = linear(%x, %w) : 4x8xf32
  %v1 = reshape(%v0) {shape=(4, 4, 2)} : 4x4x2xf32
  %v2 = transpose(%v1) {perm=(1, 0, 2)} : 4x4x2xf32
  %a = attention(%q2, %k2, %v2) {scale=0.7} : 4x4x2xf32
  %t = transpose(%a) {perm=(1, 0, 2)} : 4x4x2xf32
  %f = reshape(%t) {shape=(4, 8)} : 4x8xf32
  %y = linear(%f, %v) : 4x3xf32
  return %y
}
"""


def mlp() -> torch.nn.Module:
    n = torch.nn
    return n.Sequential(n.Linear(64, 48), n.ReLU(), n.Linear(48, 48), n.ReLU(), n.Linear(48, 10))


def trained(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = mlp()
    x, y = torch.tensor(PIXELS), torch.tensor(LABELS)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(60):
        rows = torch.randperm(TRAINED)[:300]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


def opened(module: Module, data: dict[str, np.ndarray]) -> tuple[Evidence, PassContext]:
    """What passes of a compilation get."""
    evidence = Evidence(module, DataRequest(data))
    context = PassContext(
        find_target("x86-64-v3"),
        evaluate=evaluate_constants,
        calibration=evidence.calibration,
        judge=evidence.judge,
    )
    return evidence, context


@pytest.mark.parametrize("labelled", [True, False])
def test_taylor_keeps_more_than_chance(labelled: bool) -> None:
    """Accuracy with labels, agreement with the original without; on samples no pass has seen."""
    kept: dict[str, list[float]] = {"taylor": [], "random": []}
    for seed in range(3):
        captured = optc.capture(trained(seed), (torch.zeros(8, 64),))
        data = {captured.inputs[0].name: PIXELS[TRAINED:]}
        if labelled:
            data["labels"] = LABELS[TRAINED:]
        evidence, context = opened(captured, data)
        module = Pipeline.parse("canonicalize").run(captured, context)
        for criterion, draws in (("taylor", 1), ("random", 4)):
            for draw in range(draws):
                options = f"ratio=0.3,align=1,seed={draw},criterion={criterion}"
                after = Pipeline.parse(f"prune-channels{{{options}}}").run(module, context)
                kept[criterion].append(evidence.judge.quality(after).value)
    assert np.mean(kept["taylor"]) > np.mean(kept["random"]) + 0.05, kept


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    ("text", "name"),
    [(LINEAR, "prune-channels"), (CONV, "prune-channels"), (HEADS, "prune-heads")],
)
def test_what_nothing_reads_goes_first(text: str, name: str, labelled: bool) -> None:
    draw = np.random.default_rng(0)
    wide, reader = draw.standard_normal((8, 6)), draw.standard_normal((3, 8))
    wide[2:4] *= 30  # by norms they would be the last to go
    reader[:, 2:4] = 0
    for place, numbers in (("WIDE", wide), ("READER", reader)):
        text = text.replace(place, ", ".join(str(float(n)) for n in numbers.ravel()))
    module = parse(text)
    x = module.inputs[0]
    data = {x.name: draw.standard_normal((60, *x.type.shape[1:])).astype(np.float32)}
    if labelled:
        data["labels"] = draw.integers(0, 3, 60)
    _, context = opened(module, data)
    step = f"{name}{{ratio=0.25,align=1,criterion=taylor}}"
    after = Pipeline.parse(step).run(module, context)
    (graph,) = after.graphs
    (found,) = (item.array for value, item in graph.constants.items() if value.hint == "v")
    expected = np.delete(reader, [2, 3], 1).astype(np.float32)
    np.testing.assert_array_equal(found.reshape(3, -1), expected)


@pytest.mark.parametrize("name", ["prune-channels", "prune-heads"])
def test_without_data_it_says_what_is_missing(name: str) -> None:
    step = Pipeline.parse(f"{name}{{criterion=taylor}}")
    module = parse(LINEAR.replace("values=(WIDE)", "seed=1").replace("values=(READER)", "seed=2"))
    with pytest.raises(OptcError, match="E0134") as caught:
        step.run(module, PassContext(find_target("x86-64-v3")))
    (finding,) = caught.value.diagnostics
    assert "criterion=taylor" in finding.message
    assert finding.help == "--data calib.npz"
