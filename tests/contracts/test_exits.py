"""Every pass of the catalogue on a module of several graphs whose flow can end early.

Each way out is forced in turn: what the pass promises of a model holds of every way through it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from optc.backends.reference.evaluate import run
from optc.backends.reference.fold import evaluate_constants
from optc.ir.diagnostics import OptcError
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.ir.verify import verify
from optc.passes.base import Effect, PassContext, run_passes
from optc.passes.catalogue import BUILT_IN, find_pass
from optc.quality.evidence import DataRequest, Evidence
from tests.strategies.exiting import with_thresholds

NEVER, ALWAYS = float("inf"), float("-inf")
TEXT = """module @stages {
  input x : 1x4x8x8xf32
  output y : 1x3xf32
  state exit_0.threshold = {splat=0.5} : f32
  state exit_1.threshold = {splat=0.5} : f32
  flow {
    exit_0, early, h = run @first(x, exit_0.threshold)
    exit_if exit_0 return early
    exit_1, later, g = run @second(h, exit_1.threshold)
    exit_if exit_1 return later
    y = run @third(g, h)
  }
  graph @first(%x: 1x4x8x8xf32, %t: f32) {
    %w = constant {seed=1} : 16x4x3x3xf32
    %b = constant {splat=0.0} : 16xf32
    %head = constant {seed=2} : 3x16xf32
    %c = conv(%x, %w, %b) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)} : 1x16x8x8xf32
    %h = relu(%c) : 1x16x8x8xf32
    %m = reduce_mean(%h) {axes=(2, 3)} : 1x16xf32
    %early = linear(%m, %head) : 1x3xf32
    %s = reduce_max(%early) {axes=(0, 1)} : f32
    %sure = greater_equal(%s, %t) : bool
    return %sure, %early, %h
  }
  graph @second(%h: 1x16x8x8xf32, %t: f32) {
    %w = constant {seed=3} : 32x16x3x3xf32
    %v = constant {seed=4} : 16x32x1x1xf32
    %b = constant {splat=0.0} : 16xf32
    %head = constant {seed=5} : 3x16xf32
    %c = conv(%h, %w) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)} : 1x32x8x8xf32
    %r = relu(%c) : 1x32x8x8xf32
    %d = conv(%r, %v, %b) {stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)} : 1x16x8x8xf32
    %g = add(%d, %h) : 1x16x8x8xf32
    %m = reduce_mean(%g) {axes=(2, 3)} : 1x16xf32
    %later = linear(%m, %head) : 1x3xf32
    %s = reduce_max(%later) {axes=(0, 1)} : f32
    %sure = greater_equal(%s, %t) : bool
    return %sure, %later, %g
  }
  graph @third(%g: 1x16x8x8xf32, %h: 1x16x8x8xf32) {
    %head = constant {seed=6} : 3x16xf32
    %e = add(%g, %h) : 1x16x8x8xf32
    %m = reduce_mean(%e) {axes=(2, 3)} : 1x16xf32
    %p = softmax(%m) {axis=1} : 1x16xf32
    %y = linear(%p, %head) : 1x3xf32
    return %y
  }
}
"""
WAYS = (
    ("exit_0", {"exit_0": ALWAYS, "exit_1": NEVER}),
    ("exit_1", {"exit_0": NEVER, "exit_1": ALWAYS}),
    ("", {"exit_0": NEVER, "exit_1": NEVER}),
)


@cache
def evidence() -> Evidence:
    draw = np.random.Generator(np.random.PCG64(0))
    data = {"x": draw.standard_normal((60, 4, 8, 8)).astype(np.float32)}
    return Evidence(parse(TEXT), DataRequest(data))


def context() -> PassContext:
    return PassContext(
        find_target("x86-64-v3"),
        evaluate=evaluate_constants,
        calibration=evidence().calibration,
        judge=evidence().judge,
    )


def answer(module: Module, way: dict[str, float]) -> tuple[str, torch.Tensor]:
    x = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found = run(with_thresholds(module, way), {"x": x})
    return found.exit, found.outputs["y"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_way_out_stays(name: str) -> None:
    module = parse(TEXT)
    step = find_pass(name)()
    try:
        after = run_passes(module, (step,), context())
    except OptcError:
        return  # refused with a code; the module is as it was
    assert verify(after) == ()
    assert after.flow.exits == module.flow.exits
    assert [state.name for state in after.parameters] == [s.name for s in module.parameters]
    for exit, way in WAYS:
        (before, wanted), (taken, found) = answer(module, way), answer(after, way)
        assert before == taken == exit
        assert found.shape == wanted.shape
        if step.effect is Effect.LOSSY:
            assert torch.isfinite(found).all()
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_what_crosses_a_border_is_pinned() -> None:
    ctx = context()
    after = run_passes(parse(TEXT), (find_pass("prune-channels")(),), ctx)
    shapes = [[v.shape for v in (*g.inputs, *g.outputs)] for g in after.graphs]
    assert shapes == [[v.shape for v in (*g.inputs, *g.outputs)] for g in parse(TEXT).graphs]
    widths = [n.output.shape for n in after.graphs[1].nodes if n.op.name == "relu"]
    assert widths[0][1] < 32  # what stays inside a stage is pruned
    reasons = [found.message for found in ctx.diagnostics if found.code == "N0311"]
    assert any("which is the caller's" in reason for reason in reasons)
