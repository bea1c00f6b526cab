"""Linear layers with small integers for weights: every way to share parameters, every target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optc.backends.reference.evaluate import run_graph
from optc.backends.tvm.templates.weight_only import BlockPack, SmallPack
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.ops import Dequantize, Linear, ew
from optc.ir.ops.quantization import limits
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.loaded import Loaded

F32, I4, I8, U8 = DType.F32, DType.I4, DType.I8, DType.U8
# rows, columns, length, weights, shape of scale, shape of zero
CASES = (
    (1, 130, 64, I8, (130, 1), ()),
    (1, 48, 96, I4, (48, 3), (48, 3)),
    (3, 33, 40, I4, (33, 1), ()),
    (7, 64, 64, I8, (64, 2), (64, 2)),
    (18, 20, 33, U8, (), ()),
    (5, 36, 64, I4, (12, 8), (1, 1)),
    (2, 17, 32, U8, (17, 4), (17, 1)),
)


def layer(
    m: int, n: int, k: int, kind: DType, scale: tuple[int, ...], zero: tuple[int, ...]
) -> Graph:
    builder = Builder("layer")
    x, weight = builder.input(TensorType((m, k), F32)), builder.input(TensorType((n, k), kind))
    factors = builder.input(TensorType(scale, F32)), builder.input(TensorType(zero, kind))
    bias = builder.input(TensorType((n,), F32))
    wide = builder.emit(Dequantize(F32), weight, *factors)
    return builder.build([builder.emit(ew.Relu(), builder.emit(Linear(), x, wide, bias))])


def numbers(type: TensorType, seed: int) -> torch.Tensor:
    source = np.random.default_rng(seed)
    if type.dtype is F32:
        return torch.from_numpy(np.asarray(source.standard_normal(type.shape), np.float32))
    low, high = limits(type.dtype)
    found = source.integers(low, high + 1, type.shape)
    return torch.from_numpy(np.asarray(found, type.dtype.storage))


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2"])
def test_layers_are_those_of_the_reference(target: str) -> None:
    bodies = [layer(*case) for case in CASES]
    constants = [frozenset(range(1, 5))] * len(bodies)
    for choice in (0, 3):
        loaded = Loaded(bodies, constants, find_target(target), choice)
        assert set(loaded.templates) == {"weight_only/1"}
        for number, body in enumerate(bodies):
            inputs = [numbers(value.type, 7 * number + i) for i, value in enumerate(body.inputs)]
            (found,), (wanted,) = loaded(number, inputs), run_graph(body, inputs)
            largest = float(wanted.abs().max())
            torch.testing.assert_close(found, wanted, rtol=0, atol=3e-6 * max(1.0, largest))


def test_other_weights_go_elsewhere() -> None:
    body = layer(2, 16, 32, I8, (16, 1), ())
    assert Loaded([body], [frozenset((1, 2))]).templates == ["batch_matmul/1"]


@given(st.integers(1, 70), st.integers(1, 6), st.sampled_from([16, 48]))
def test_packs_hold_every_number(n: int, words: int, width: int) -> None:
    weights = np.random.default_rng(n).integers(-8, 8, (n, 8 * words)).astype(np.int8)
    for nibbles, kind in ((True, I4), (False, I8)):
        pack = SmallPack(width, 16, nibbles)
        packed = pack(weights)
        assert packed.shape == pack.type(TensorType(weights.shape, kind)).shape
        if nibbles:
            parts = packed.view(np.uint32)[:, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
            packed = parts.astype(np.int8) << 4 >> 4
        found = np.sort(packed.ravel())
        assert found[found != 0].tolist() == np.sort(weights[weights != 0]).tolist()
    table = np.arange(n * 2, dtype=np.int8).reshape(n, 2)
    panels = BlockPack(n, width, 16)(table)
    assert panels[0] == table[0, 0]
    assert panels[min(width, -(-n // 16) * 16)] == table[0, 1]
