"""A doubled module: f64 everywhere, and the same function up to the rounding of f32."""

from __future__ import annotations

import pytest
import torch

from optc.backends.reference.doubled import doubled, doubled_inputs
from optc.backends.reference.evaluate import run
from optc.ir.dtype import DType
from optc.ir.ops.base import OpError
from optc.ir.text import parse
from optc.ir.verify import verify

TEXT = """graph @main(%x: 2x4xf32, %i: 2xi64) {
  %w = constant {seed=1} : 8x4xf32
  %b = constant {splat=0.1} : 8xf32
  %a = linear(%x, %w, %b) : 2x8xf32
  %n = cast(%i) {dtype=f32} : 2xf32
  %m = reshape(%n) {shape=(2, 1)} : 2x1xf32
  %s = mul(%a, %m) : 2x8xf32
  %y = softmax(%s) {axis=1} : 2x8xf32
  return %y
}
"""
BYTES = """graph @main(%x: 2x4xf32) {
  %scale = constant {splat=0.1} : f32
  %zero = constant {splat=0} : i8
  %q = quantize(%x, %scale, %zero) : 2x4xi8
  return %q
}
"""


def test_all_floats_are_wide_and_the_function_is_the_same() -> None:
    module = parse(TEXT)
    wide, became = doubled(module)
    assert not verify(wide)
    assert {v.type.dtype for g in wide.graphs for v in g.values()} == {DType.F64, DType.I64}
    assert {*became} == {v for g in module.graphs for v in g.values()}
    inputs = {"x": torch.randn(2, 4), "i": torch.tensor([1, 3])}
    (narrow,) = run(module, inputs).outputs.values()
    (found,) = run(wide, doubled_inputs(inputs)).outputs.values()
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), narrow, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found, narrow.double())


def test_what_is_defined_by_f32_is_refused() -> None:
    with pytest.raises(OpError, match="quantize takes"):
        doubled(parse(BYTES))
