"""The bridge writes MLIR that other compilers take, and MLIR's engine agrees with the reference."""

from __future__ import annotations

import pytest
import torch

from optc.backends.mlir import execute
from optc.backends.mlir.bridge import Dialect, to_mlir
from optc.backends.reference import evaluate
from optc.ir.dtype import DType
from optc.ir.text import parse

BLOCK = """graph @main(%x: 1x16x64xf32, %r: 1x16x64xf32) {
  %w = constant {seed=3} : 64x64xf32
  %b = constant {seed=4} : 64xf32
  %h = constant {splat=0.5} : f32
  %l = linear(%x, %w, %b) : 1x16x64xf32
  %g = gelu(%l) : 1x16x64xf32
  %a = add(%g, %r) : 1x16x64xf32
  %m = mul(%a, %h) : 1x16x64xf32
  %n = layer_norm(%m) : 1x16x64xf32
  return %n, %m
}
"""
CNN = """graph @main(%x: 1x3x12x12xf32) {
  %w = constant {seed=1} : 8x3x3x3xf32
  %b = constant {seed=2} : 8xf32
  %c = conv(%x, %w, %b) {stride=(2, 2), padding=((1, 1), (1, 1))} : 1x8x6x6xf32
  %r = relu(%c) : 1x8x6x6xf32
  %p = max_pool(%r) {kernel=(2, 2), stride=(2, 2)} : 1x8x3x3xf32
  %m = reduce_mean(%p) {axes=(2, 3)} : 1x8xf32
  %s = softmax(%m) {axis=1} : 1x8xf32
  return %s
}
"""
ATTENTION = """graph @main(%q: 1x2x8x16xf32, %k: 1x2x8x16xf32, %v: 1x2x8x16xf32, %i: 1x5xi64) {
  %a = attention(%q, %k, %v) {scale=0.25, causal=true} : 1x2x8x16xf32
  %w = constant {seed=5} : 10x4xf32
  %e = take(%w, %i) : 1x5x4xf32
  return %a, %e
}
"""


def _inputs(module):
    generator = torch.Generator().manual_seed(0)
    return {
        port.name: torch.randn(port.type.shape, generator=generator)
        if port.type.dtype is DType.F32
        else torch.randint(0, 10, port.type.shape, generator=generator)
        for port in module.inputs
    }


@pytest.mark.parametrize("text", [BLOCK, CNN, ATTENTION], ids=["block", "cnn", "attention"])
def test_mlir_engine_agrees_with_the_reference(text):
    module = parse(text)
    inputs = _inputs(module)
    expected = evaluate.run(module, inputs).outputs
    found = execute.run(module, inputs)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dialect", "mark"),
    [
        (Dialect.TORCH, "torch.aten"),
        (Dialect.LINALG, "linalg."),
        (Dialect.TOSA, "tosa."),
        (Dialect.STABLEHLO, "stablehlo."),
    ],
)
def test_each_dialect_is_written(dialect, mark):
    assert mark in str(to_mlir(parse(BLOCK), dialect))
