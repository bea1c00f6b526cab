"""The integer graph is the quantized graph, bit for bit where the formulas promise it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optc.backends.reference.evaluate import run_graph
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.ops import Conv, ConvTranspose, Linear
from optc.ir.ops.quantization import limits
from optc.ir.text import parse
from optc.ir.types import TensorType
from optc.passes.base import run_passes
from optc.passes.canonicalize.merge_linears import MergeLinears
from optc.passes.precision.integerize import Integerize
from optc.passes.precision.observe import Observer
from optc.passes.precision.quantize import Quantize
from tests.passes.precision.quantizing import in_f32, outputs, with_data
from tests.passes.prune.networks import image_nets, text_nets

MANY = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
LAYERS = (Conv, ConvTranspose, Linear)


@MANY
@given(
    graph=st.one_of(image_nets(), text_nets()),
    observer=st.sampled_from(Observer),
    target=st.sampled_from(("x86-64-v3", "cortex-a76")),
)
def test_with_powers_of_two_every_bit_is_equal(
    graph: Graph, observer: Observer, target: str
) -> None:
    """Products with powers of two, and sums below 2**24 units, are exact in f32 on both sides."""
    module, ctx = with_data(in_f32(graph), target)
    quantized = Quantize(observer=observer, power_of_two=True).run(module, ctx)
    integers = run_passes(quantized, (Integerize(),), ctx)
    chosen = [n for n in integers.graphs[0].nodes if isinstance(n.op, LAYERS)]
    small = [node for node in chosen if not node.inputs[0].type.dtype.is_float]
    stays = [finding for finding in ctx.diagnostics if "stays in floats" in finding.message]
    assert len(chosen) - len(small) == sum("conv_transpose" in item.message for item in stays)
    assert small
    for found, wanted in zip(outputs(integers), outputs(quantized), strict=True):
        assert torch.equal(found, wanted)


@MANY
@given(graph=image_nets())
def test_other_scales_differ_by_what_a_tie_may(graph: Graph) -> None:
    """One step at a few places moves an output by little; a wrong zero or bias moves it by much."""
    module, ctx = with_data(in_f32(graph))
    quantized = Quantize().run(module, ctx)
    integers = run_passes(quantized, (Integerize(),), ctx)
    (found,), (wanted,), (exact,) = map(outputs, (integers, quantized, module))
    lost = float((wanted - exact).abs().max())
    assert float((found - wanted).abs().max()) <= 0.5 * lost + 1e-5


NET = """graph @main(%x: 2x4x6x6xf32) {
  %u = constant {seed=1} : 8x4x3x3xf32
  %v = constant {seed=2} : 8x8x3x3xf32
  %w = constant {seed=3} : 8x8x1x1xf32
  %d = constant {seed=4} : 8x1x3x3xf32
  %k = constant {seed=5} : 3x16xf32
  %a = conv(%x, %u) {padding=((1, 1), (1, 1))} : 2x8x6x6xf32
  %b = relu(%a) : 2x8x6x6xf32
  %c = conv(%b, %v) {padding=((1, 1), (1, 1))} : 2x8x6x6xf32
  %e = add(%c, %b) : 2x8x6x6xf32
  %f = relu(%e) : 2x8x6x6xf32
  %g = conv(%f, %d) {padding=((1, 1), (1, 1)), groups=8} : 2x8x6x6xf32
  %h = clamp(%g) {low=0.0, high=6.0} : 2x8x6x6xf32
  %i = conv(%h, %w) : 2x8x6x6xf32
  %j = concat(%i, %f) {axis=1} : 2x16x6x6xf32
  %l = max_pool(%j) {kernel=(2, 2), stride=(2, 2)} : 2x16x3x3xf32
  %m = avg_pool(%l) {kernel=(3, 3), stride=(3, 3)} : 2x16x1x1xf32
  %n = reshape(%m) {shape=(2, 16)} : 2x16xf32
  %y = linear(%n, %k) : 2x3xf32
  return %y
}
"""


@pytest.mark.parametrize("target", ["x86-64-v3", "cortex-a76"])
def test_memory_holds_integers_between_layers(target: str) -> None:
    module, ctx = with_data(parse(NET), target)
    integers = run_passes(module, (Quantize(), Integerize()), ctx)
    (graph,) = integers.graphs
    # Whatever a layer, a pool, a concat or a pad reads is bytes.
    wanted = ctx.target.activations
    for node in graph.nodes:
        if node.op.name in ("conv", "linear", "concat", "max_pool", "pad", "reshape"):
            assert node.inputs[0].type.dtype is wanted, node.op.name
    pads = [node for node in graph.nodes if node.op.name == "pad"]
    # What a relu gave alone needs none in u8; what shares its scale with %i does.
    assert len(pads) == (2 if wanted is DType.U8 else 3)


def test_a_channel_of_almost_nothing_does_not_keep_its_layer_in_floats() -> None:
    """Its scale is what its bias asks for, and what the input's zero adds comes on top."""
    text = """graph @main(%x: 2x4xf32) {
      %w = constant {values=(1e-30, 1e-30, 1e-30, 1e-30, 1.0, -1.0, 0.5, 0.25)} : 2x4xf32
      %b = constant {values=(-3.0, 0.5)} : 2xf32
      %y = linear(%x, %w, %b) : 2x2xf32
      return %y
    }
    """
    module, ctx = with_data(parse(text))
    integers = run_passes(Quantize().run(module, ctx), (Integerize(),), ctx)
    (layer,) = [node for node in integers.graphs[0].nodes if isinstance(node.op, Linear)]
    assert layer.output.type.dtype is DType.I32


HEADS = """graph @main(%x: 1x40x8xf32) {
  %a = constant {seed=1} : 8x8xf32
  %b = constant {seed=2} : 8x8xf32
  %c = constant {seed=3} : 8x8xf32
  %d = constant {seed=4} : 8xf32
  %q = linear(%x, %a, %d) : 1x40x8xf32
  %k = linear(%x, %b) : 1x40x8xf32
  %v = linear(%x, %c, %d) : 1x40x8xf32
  %t = mul(%q, %k) : 1x40x8xf32
  %y = add(%t, %v) : 1x40x8xf32
  return %y
}
"""


@pytest.mark.parametrize("target", ["x86-64-v3", "cortex-a76"])
def test_siblings_that_read_one_value_are_one_product_of_bytes(target: str) -> None:
    module, ctx = with_data(parse(HEADS), target)
    quantized = Quantize().run(module, ctx)
    apart = run_passes(quantized, (Integerize(),), ctx)
    joined = run_passes(quantized, (MergeLinears(), Integerize()), ctx)
    (layer,) = [node for node in joined.graphs[0].nodes if isinstance(node.op, Linear)]
    assert layer.output.type == TensorType((1, 40, 24), DType.I32)
    assert torch.equal(outputs(joined)[0], outputs(apart)[0])


MEANS = """graph @main(%q: 2x{rows}x{columns}x3x{kind}) {{
  %s = constant {{splat=0.37}} : f32
  %z = constant {{splat={zero}}} : {kind}
  %t = constant {{splat=0.11}} : f32
  %x = dequantize(%q, %s, %z) : 2x{rows}x{columns}x3xf32
  %m = reduce_mean(%x) {{axes=(1, 2)}} : 2x3xf32
  %y = quantize(%m, %t, %z) {{dtype={kind}}} : 2x3x{kind}
  return %y
}}
"""


@MANY
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    kind=st.sampled_from((DType.U8, DType.I8)),
    zero=st.integers(0, 127),
    seed=st.integers(0, 99),
)
def test_means_are_the_nearest_integers(
    rows: int, columns: int, kind: DType, zero: int, seed: int
) -> None:
    """Of the mean over the reals, but where it lies within rounding of a tie."""
    module, ctx = with_data(parse(MEANS.format(rows=rows, columns=columns, kind=kind, zero=zero)))
    (integers,) = run_passes(module, (Integerize(),), ctx).graphs
    assert not any(value.type.dtype.is_float for node in integers.nodes for value in node.outputs)
    least, most = limits(kind)
    drawn = np.random.default_rng(seed).integers(least, most + 1, (2, rows, columns, 3))
    x = torch.from_numpy(drawn.astype(kind.storage))
    (found,) = run_graph(integers, [x])
    mean = (drawn.mean(axis=(1, 2)) - zero) * float(np.float32(0.37)) / float(np.float32(0.11))
    clear = np.abs(mean - np.floor(mean) - 0.5) > 1e-3
    wanted = np.clip(np.rint(mean) + zero, least, most)
    assert (found.numpy() == wanted)[clear].all()
