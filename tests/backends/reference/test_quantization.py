"""Integers of the reference against formulas written out in numpy's int64, bit for bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.reference.evaluate import MEANING
from optc.ir.dtype import DType
from optc.ir.ops import (
    Conv,
    ConvTranspose,
    Dequantize,
    Linear,
    MatMul,
    OpError,
    Quantize,
    Requantize,
)
from optc.ir.ops.quantization import STORED, limits
from optc.ir.types import TensorType, parse_type
from tests.strategies.instances import Instance, instances
from tests.strategies.values import Whole, fill

MANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def entries(parameter: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The entry that each element uses, by the rule as it is written: i // (extent / entries)."""
    if parameter.ndim == 0:
        return np.broadcast_to(parameter, shape)
    places = [
        np.arange(extent) // (extent // count) if count else np.arange(0)
        for extent, count in zip(shape, parameter.shape, strict=True)
    ]
    return parameter[np.ix_(*places)]


def numbers(instance: Instance) -> list[np.ndarray]:
    """The inputs, halves as the f32 that they are."""
    return [
        (item.float() if item.is_floating_point() else item).numpy() for item in instance.inputs()
    ]


def saturated(scaled: np.ndarray, zero: np.ndarray, dtype: DType) -> np.ndarray:
    least, most = limits(dtype)
    bounded = np.clip(np.nan_to_num(scaled, nan=-np.inf), -1e6, 1e6)
    return np.clip(np.rint(bounded).astype(np.int64) + zero.astype(np.int64), least, most)


@MANY
@given(instances(Quantize))
def test_quantize(instance: Instance) -> None:
    x, scale, zero = numbers(instance)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = x * entries(np.float32(1) / scale, x.shape)
    wanted = saturated(scaled, entries(zero, x.shape), instance.op.dtype)
    found = MEANING[Quantize](instance.op, *instance.inputs())
    assert np.array_equal(found.numpy(), wanted)


@MANY
@given(instances(Requantize))
def test_requantize(instance: Instance) -> None:
    x, multiplier, zero = numbers(instance)
    scaled = x.astype(np.float32) * entries(multiplier, x.shape)
    wanted = saturated(scaled, entries(zero, x.shape), instance.op.dtype)
    found = MEANING[Requantize](instance.op, *instance.inputs())
    assert np.array_equal(found.numpy(), wanted)


@MANY
@given(instances(Dequantize))
def test_dequantize(instance: Instance) -> None:
    q, scale, zero = numbers(instance)
    moved = q.astype(np.float32) - entries(zero, q.shape).astype(np.float32)
    wanted = torch.from_numpy(np.asarray(moved * entries(scale, q.shape)))
    found = MEANING[Dequantize](instance.op, *instance.inputs())
    assert torch.equal(found, wanted.to(TORCH_DTYPE[instance.op.dtype]))


@MANY
@given(
    st.sampled_from(STORED),
    st.floats(2**-10, 2**10, width=32),
    st.lists(st.floats(0, 1), min_size=1, max_size=40),
    st.data(),
)
def test_a_round_trip_is_right_to_half_a_step(
    dtype: DType, scale: float, shares: list[float], data: st.DataObject
) -> None:
    least, most = limits(dtype)
    zero = data.draw(st.integers(least, most))
    low, high = (least - zero) * scale, (most - zero) * scale
    x = np.array([low + share * (high - low) for share in shares], np.float32)
    parameters = torch.tensor(scale), torch.tensor(zero, dtype=TORCH_DTYPE[dtype])
    q = MEANING[Quantize](Quantize(dtype), torch.from_numpy(x), *parameters)
    back = MEANING[Dequantize](Dequantize(), q, *parameters).numpy()
    step = Fraction(float(np.float32(scale)))
    # Half a step, and what three f32 roundings of numbers of up to 255 steps may add.
    bound = step / 2 + 3 * step * 255 / (1 << 23)
    assert all(
        abs(Fraction(float(a)) - Fraction(float(b))) <= bound for a, b in zip(x, back, strict=True)
    )


@MANY
@given(instances(MatMul).filter(lambda item: item.op.infer(*item.types)[0].dtype is DType.I32))
def test_matmul_of_bytes(instance: Instance) -> None:
    a, b = (item.astype(np.int64) for item in numbers(instance))
    wanted = a @ (b.swapaxes(-1, -2) if instance.op.transpose_b else b)
    assert np.array_equal(MEANING[MatMul](instance.op, *instance.inputs()).numpy(), wanted)


@pytest.mark.parametrize("kind", [Linear, Conv, ConvTranspose])
def test_bytes_are_summed_as_i64_are(kind: type) -> None:
    """Torch convolves i64 by plain loops: an oracle that shares nothing with f64."""

    @MANY
    @given(instances(kind).filter(lambda item: item.types[1].dtype is DType.I8))
    def check(instance: Instance) -> None:
        inputs = instance.inputs()
        wanted = MEANING[kind](instance.op, *(item.long() for item in inputs))
        assert torch.equal(MEANING[kind](instance.op, *inputs).long(), wanted)

    check()


def test_long_sums_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    x = fill(parse_type("3x70000xu8"), Whole(250, 255), generator)
    weight = fill(parse_type("2x70000xi8"), Whole(-128, -120), generator)
    wanted = x.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T
    assert wanted.min() < -(1 << 31)
    found = MEANING[Linear](Linear(), x, weight).numpy()
    assert np.array_equal(found, wanted.astype(np.int32))


@pytest.mark.parametrize(
    ("op", "types", "reason"),
    [
        (Quantize(), "4x6xf32 2x4xf32 i8", "does not divide"),
        (Quantize(), "4x6xf32 6xf32 i8", "does not divide"),
        (Quantize(), "4x6xf32 f32 u8", "zero is i8"),
        (Quantize(DType.I32), "4xf32 f32 i32", "i8, u8 or i4"),
        (Dequantize(), "4xi64 f32 i64", "i8, u8, i4 or i32"),
        (Requantize(), "4xi8 f32 i8", "takes i32"),
        (Linear(), "4x8xu8 3x8xu8", "weight beside 4x8xu8 is i8"),
        (Linear(), "4x8xi8 3x8xi8 3xi8", "bias of a product of bytes is i32"),
        (MatMul(), "4x8xu8 8x3xi32", "share one dtype"),
    ],
)  # fmt: skip
def test_types_are_checked(op: Quantize, types: str, reason: str) -> None:
    with pytest.raises(OpError, match=reason):
        op.infer(*map(parse_type, types.split()))


def test_blocks_divide_the_extent() -> None:
    x = TensorType((8, 64), DType.F32)
    groups, zeros = TensorType((8, 2), DType.F32), TensorType((), DType.I4)
    assert Quantize(DType.I4).infer(x, groups, zeros) == (x.with_dtype(DType.I4),)
