"""Weights of half bytes: smaller in their file, the same in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import optc
from optc.backends.halves import fits, packed
from optc.ir.builder import Builder
from optc.ir.constant import constant
from optc.ir.diagnostics import OptcError
from optc.ir.dtype import DType
from optc.ir.module import Module, module_of
from optc.ir.ops import Conv, Dequantize, Linear
from optc.ir.types import TensorType

NARROW = st.integers(-8, 7)


@given(array=arrays(np.int8, st.integers(1, 300), elements=NARROW))
def test_halves_come_back(array: np.ndarray) -> None:
    pairs = packed(array)
    assert len(pairs) == -(-len(array) // 2)
    apart = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)[: len(array)]
    assert np.array_equal((apart ^ 8).astype(np.int8) - 8, array)


def test_what_fits() -> None:
    whole = np.full(64, -8, np.int8)
    assert fits(whole)
    assert not fits(whole[:63])
    assert fits(whole.view(np.int32))  # words of four bytes
    assert fits(whole.astype(np.int16))  # whose upper bytes are 0 or -1
    assert not fits(whole.astype(np.float32))
    for wide in (8, -9):
        whole[5] = wide
        assert not fits(whole)


def layers(largest: int) -> tuple[Module, np.ndarray]:
    """A convolution and a linear layer of integers; one weight is `largest`."""
    draw, builder = np.random.default_rng(0), Builder()
    x = builder.input(TensorType((1, 8, 6, 6), DType.U8), "x")
    kernel = draw.integers(-8, 8, (24, 8, 3, 3)).astype(np.int8)
    kernel[3, 2, 1, 1] = largest
    y = builder.emit(Conv(padding=((1, 1), (1, 1))), x, builder.constant(constant(kernel), "k"))
    odd = draw.integers(-8, 8, (7, 6)).astype(np.int8)  # too small to be worth it
    z = builder.emit(Linear(), x, builder.constant(constant(odd), "w"))
    one = builder.splat(0.5, TensorType((), DType.F32), "scale")
    zero = builder.splat(0, TensorType((), DType.I32), "zero")
    results = [builder.emit(Dequantize(), value, one, zero) for value in (y, z)]
    return module_of(builder.build(results)), draw.integers(0, 256, (1, 8, 6, 6)).astype(np.uint8)


def run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(y) for y in optc.load(path)(x)]


@pytest.mark.parametrize("target", ["host", "x86-64-v2"])
def test_an_artifact_is_smaller_and_computes_the_same(tmp_path: Path, target: str) -> None:
    (narrow, x), (wide, _) = layers(7), layers(8)
    small = optc.compile(narrow, target, out=tmp_path / "small").path
    large = optc.compile(wide, target, out=tmp_path / "large").path
    sizes = [(path / "weights.bin").stat().st_size for path in (small, large)]
    assert sizes[0] <= sizes[1] - 24 * 8 * 9 // 2 + 64
    found, other = run(small, x), run(large, x)
    assert np.array_equal(found[1], other[1])
    exact = np.zeros((1, 24, 6, 6))
    around = np.pad(x.astype(np.int64)[0], ((0, 0), (1, 1), (1, 1)))
    exact[0, 3] = around[2, 1:-1, 1:-1] * 0.5  # what one more in that weight adds
    assert np.array_equal(other[0] - found[0], exact)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = optc.compile(layers(7)[0], out=tmp_path / "o").path
    data = bytearray((path / "weights.bin").read_bytes())
    data[100] ^= 16
    (path / "weights.bin").write_bytes(data)
    with pytest.raises(OptcError, match="E0514"):
        optc.load(path)
