"""Layers in parts compute what the whole layer computes, and are as small as was asked."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from optc.backends.reference.evaluate import run
from optc.ir.builder import Builder
from optc.ir.constant import constant
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.module import module_of
from optc.ir.ops import Conv, Dequantize, Linear
from optc.ir.types import TensorType
from optc.passes.memory.split_weights import SplitWeights
from tests.passes.oracle import context

KINDS = ("plain", "rows", "groups", "pairs", "one")


def weight_of(build: Builder, kind: str, shape: tuple[int, ...], seed: int) -> Value:
    """A constant, or one dequantized by parameters of some shape."""
    rng = np.random.default_rng(seed)
    if kind == "plain":
        return build.constant(rng.standard_normal(shape).astype(np.float32))
    ones = (1,) * (len(shape) - 1)
    scales = {
        "rows": (shape[0], *ones),
        "groups": (shape[0], shape[1] // 4, *ones[1:]),
        "pairs": (shape[0] // 2, *ones),
        "one": (),
    }[kind]
    q = build.constant(constant(rng.integers(-8, 8, shape).astype(np.int8), DType.I8))
    s = build.constant(rng.uniform(0.1, 1, scales).astype(np.float32))
    z = build.constant(rng.integers(-2, 2, scales).astype(np.int8))
    return build.emit(Dequantize(), q, s, z)


@st.composite
def layers(draw: st.DrawFn) -> Graph:
    """A graph with one layer of 2 to 300 outputs."""
    build = Builder("main")
    outputs = 2 * draw(st.integers(1, 150))
    inputs = 4 * draw(st.integers(1, 3))
    kind, seed = draw(st.sampled_from(KINDS)), draw(st.integers(0, 9))
    last, bias = draw(st.booleans()), draw(st.booleans())
    conv = draw(st.booleans())
    channels = (2, 3, 3, inputs) if last else (2, inputs, 3, 3)
    x = build.input(TensorType(channels if conv else (3, inputs), DType.F32), "x")
    shape = (outputs, inputs, 3, 3) if conv else (outputs, inputs)
    values = [x, weight_of(build, kind, shape, seed)]
    if bias:
        values.append(build.constant(np.arange(outputs, dtype=np.float32)))
    return build.build((build.emit(Conv(channels_last=last) if conv else Linear(), *values),))


@given(graph=layers(), room=st.integers(1, 1 << 15))
def test_parts_compute_what_the_layer_computed(graph: Graph, room: int) -> None:
    module = module_of(graph)
    after = SplitWeights(room).run(module, context())
    x = np.random.default_rng(3).standard_normal(graph.inputs[0].shape).astype(np.float32)
    inputs = {module.inputs[0].name: torch.from_numpy(x)}
    (want,) = run(module, inputs).outputs.values()
    (have,) = run(after, inputs).outputs.values()
    assert have.shape == want.shape
    assert float((have - want).abs().max()) <= 1e-5 * float(want.abs().max())
    assert SplitWeights(room).run(after, context()) is after


@given(graph=layers(), room=st.integers(1, 1 << 15))
def test_parts_fit_where_there_is_room_and_outputs_to_cut(graph: Graph, room: int) -> None:
    (after,) = SplitWeights(room).run(module_of(graph), context()).graphs
    for node in after.nodes:
        if isinstance(node.op, Linear | Conv):
            weight = node.inputs[1]
            made = after.producer.get(weight)
            held = (weight,) if made is None else made.inputs
            # Below 16 outputs nothing is cut, and pairs that share a scale stay together.
            assert sum(value.type.nbytes for value in held) <= room or weight.shape[0] <= 16
