"""What routing saves is told from the kernels that both models become, quantized or not."""

from __future__ import annotations

import numpy as np

from optc.contexts import pass_context
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.base import run_passes
from optc.passes.early_exit.route_to import RouteTo
from optc.passes.precision.quantize import Quantize
from optc.quality.evidence import DataRequest, Evidence

WIDTH = 512
TEXT = f"""graph @main(%x: 1x{WIDTH}xf32) {{
  %a = constant {{seed=1}} : {WIDTH}x{WIDTH}xf32
  %b = constant {{seed=2}} : {WIDTH}x{WIDTH}xf32
  %c = constant {{seed=3}} : 4x{WIDTH}xf32
  %h = linear(%x, %a) : 1x{WIDTH}xf32
  %r = relu(%h) : 1x{WIDTH}xf32
  %g = linear(%r, %b) : 1x{WIDTH}xf32
  %s = relu(%g) : 1x{WIDTH}xf32
  %y = linear(%s, %c) : 1x4xf32
  return %y
}}
"""


def test_a_quantized_model_is_priced_as_the_bytes_it_multiplies() -> None:
    large = parse(TEXT)
    x = np.random.default_rng(0).standard_normal((300, WIDTH)).astype(np.float32)
    evidence = Evidence(large, DataRequest({"x": x}, budget=0.2))
    costs = []
    for passes in ((Quantize(),), ()):
        ctx = pass_context(find_target("x86-64-v4"), evidence=evidence)
        run_passes(large, (*passes, RouteTo(large, threshold=0.0)), ctx)
        costs.append(ctx.exits[-1].exits[0].cost)
    bytes_, floats = costs
    assert floats == 1.0
    assert bytes_ < 0.6
