"""Gradients of constants against those of the plain formula."""

from __future__ import annotations

import numpy as np

from optc.backends.reference.gradients import Loss, LossKind, scores
from optc.ir.text import parse
from optc.passes.calibration import Batch, Importance

SPLAT_STATISTICS = """graph @main(%x: 4x8xf32) {
  %mean = constant {splat=0.5} : 8xf32
  %variance = constant {splat=2.0} : 8xf32
  %scale = constant {splat=1.5} : 8xf32
  %bias = constant {splat=0.1} : 8xf32
  %n = batch_norm(%x, %mean, %variance, %scale, %bias) {epsilon=0.0} : 4x8xf32
  return %n
}
"""


def test_the_scale_of_a_batch_norm_whose_statistics_are_one_number() -> None:
    module = parse(SPLAT_STATISTICS)
    (graph,) = module.graphs
    (scale,) = (value for value in graph.constants if value.hint == "scale")
    draw = np.random.default_rng(0)
    x, labels = draw.standard_normal((2, 4, 8)).astype(np.float32)
    batch = Batch({module.inputs[0].name: x}, 4, 4, labels)
    loss = Loss(module.outputs[0].name, LossKind.SQUARES)
    found = scores(module, [batch], [scale], Importance.FIRST, loss)[scale]
    normal = (x - 0.5) / np.sqrt(2.0)
    slope = 2 * (1.5 * normal + 0.1 - labels) / x.size
    np.testing.assert_allclose(found, np.abs((slope * normal).sum(0) * 1.5), rtol=1e-4)
