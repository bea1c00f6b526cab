"""Stored weights against the numbers they came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optc.backends.reference.evaluate import MEANING, run
from optc.ir.builder import Builder
from optc.ir.constant import constant
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.module import module_of
from optc.ir.ops import Dequantize
from optc.ir.types import TensorType
from optc.passes.base import run_passes
from optc.passes.precision.affine import largest, quantized, step
from optc.passes.precision.blocks import best_scale
from optc.passes.precision.quantize_weights import Bits, QuantizeWeights
from optc.passes.precision.unpack_nibbles import UnpackNibbles
from optc.passes.standard import CANONICALIZE
from tests.passes.oracle import context
from tests.passes.precision.quantizing import in_f32, outputs
from tests.passes.prune.networks import image_nets, text_nets

MANY = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


@MANY
@given(
    shape=st.sampled_from([(4, 6), (3, 8, 2, 2), (1, 1), (5, 64)]),
    dtype=st.sampled_from([DType.I8, DType.I4]),
    share=st.sampled_from([1, 2]),
    seed=st.integers(0, 999),
)
def test_a_weight_comes_back_within_half_a_step(
    shape: tuple[int, ...], dtype: DType, share: int, seed: int
) -> None:
    source = np.random.default_rng(seed)
    array = source.standard_normal(shape) * source.choice([0.0, 1e-3, 1.0], size=shape)
    blocks = (shape[0], shape[1] // share or 1, *[1] * (len(shape) - 2))
    best, whole = best_scale(array, blocks, dtype), largest(array, blocks)
    back = [
        error(array, scale, dtype)
        for scale in (best, step(whole / (127 if dtype is DType.I8 else 7)))
    ]
    assert back[0].mean() <= back[1].mean() * (1 + 1e-6) + 1e-12
    if dtype is DType.I8:
        bound = np.repeat(best.reshape(shape[0], -1), shape[1] // best.shape[1], 1)
        bound = bound.reshape(*shape[:2], *[1] * (len(shape) - 2))
        assert np.all(back[0] <= (bound / 2 + 1e-7 * np.abs(array)) ** 2 + 1e-30)


def error(array: np.ndarray, scale: np.ndarray, dtype: DType) -> np.ndarray:
    """Squared errors, by what the op means."""
    q = torch.from_numpy(quantized(array, scale, dtype).array)
    zero = torch.zeros((), dtype=torch.int8)
    found = MEANING[Dequantize](Dequantize(), q, torch.from_numpy(scale), zero)
    return (found.double().numpy() - array) ** 2


@MANY
@given(graph=st.one_of(image_nets(), text_nets()), bits=st.sampled_from([8, 4]))
def test_clean_up_and_packing_keep_weights_small_and_every_number(graph: Graph, bits: int) -> None:
    small = run_passes(
        module_of(in_f32(graph)), (QuantizeWeights(bits=Bits(str(bits)), group=2),), context()
    )
    packed = run_passes(small, (*CANONICALIZE, UnpackNibbles()), context())
    weights = {v for v in packed.graphs[0].constants if not v.hint.endswith("_scale")}
    kinds = {value.type.dtype for value in weights if value.type.elements > 100}
    assert kinds <= {DType.I8 if bits == 8 else DType.U8, DType.I64}
    assert all(value.type.dtype is not DType.I4 for value in packed.graphs[0].values())
    for found, wanted in zip(outputs(packed), outputs(small), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@MANY
@given(shape=st.sampled_from([(4, 6), (3, 5, 1, 1), (1, 1), (7, 9)]), seed=st.integers(0, 99))
def test_nibbles_come_back(shape: tuple[int, ...], seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(-8, 8, shape).astype(np.int8)
    builder = Builder()
    q = builder.constant(constant(numbers, DType.I4))
    scale, zero = builder.splat(0.5, TensorType((), DType.F32)), TensorType((), DType.I4)
    graph = builder.build([builder.emit(Dequantize(), q, scale, builder.splat(-3, zero))])
    packed = run_passes(module_of(graph), (UnpackNibbles(),), context())
    (found,) = run(packed, {}).outputs.values()
    assert np.array_equal(found.numpy(), (numbers.astype(np.float32) + 3) / 2)
    assert sum(c.type.nbytes for c in packed.graphs[0].constants.values()) <= numbers.size // 2 + 9


def test_a_group_has_members() -> None:
    with pytest.raises(ValueError, match="group"):
        QuantizeWeights(group=-1)
