"""A module on disk is the module: text, weights by digest, and what happens to damaged files."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from optc.ir.builder import Builder
from optc.ir.constant import Constant, constant
from optc.ir.diagnostics import OptcError
from optc.ir.dtype import DType
from optc.ir.module import Module, module_of
from optc.ir.ops import Linear, ew
from optc.ir.printer import print_module
from optc.ir.store import load, read_weights, save, stored_constants, weights_path, write_weights
from optc.ir.structural import module_digest
from optc.ir.types import TensorType


def two_layers(shared: bool = False) -> Module:
    generator = np.random.default_rng(0)
    build = Builder()
    x = build.input(TensorType((2, 8), DType.F32), "x")
    first = generator.standard_normal((8, 8), dtype=np.float32)
    second = first if shared else generator.standard_normal((8, 8), dtype=np.float32)
    hidden = build.emit(ew.Relu(), build.emit(Linear(), x, build.constant(first, "w1")))
    return module_of(build.build([build.emit(Linear(), hidden, build.constant(second, "w2"))]))


def code(action: object) -> str:
    with pytest.raises(OptcError) as caught:
        action()  # type: ignore[operator]
    return caught.value.diagnostics[0].code


def test_a_module_comes_back_with_its_weights(tmp_path: Path) -> None:
    module = two_layers()
    save(module, tmp_path / "m.optc")
    again = load(tmp_path / "m.optc")
    assert module_digest(again) == module_digest(module)
    assert print_module(again) == print_module(module)


def test_equal_weights_are_stored_once(tmp_path: Path) -> None:
    save(two_layers(shared=True), tmp_path / "m.optc")
    assert len(read_weights(tmp_path / "m.optc.weights")) == 1


def test_the_weights_file_is_a_safetensors_file(tmp_path: Path) -> None:
    module = two_layers()
    save(module, tmp_path / "m.optc")
    found = load_file(tmp_path / "m.optc.weights")
    assert set(found) == {item.digest for item in stored_constants(module)}
    for item in stored_constants(module):
        np.testing.assert_array_equal(found[item.digest], item.array)


def test_every_dtype_is_stored_and_aligned(tmp_path: Path) -> None:
    items: list[Constant] = []
    for index, dtype in enumerate(DType):
        numbers = np.arange(index, index + 33) % (2 if dtype is DType.BOOL else 7)
        items.append(constant(numbers.astype(dtype.storage), dtype))
    write_weights(items, tmp_path / "w")
    found = read_weights(tmp_path / "w")
    for item in items:
        array = found[item.digest]
        assert array.dtype == item.type.dtype.storage
        assert array.flags.aligned
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, item.array)


def test_text_without_weights_keeps_digests(tmp_path: Path) -> None:
    module = two_layers()
    save(module, tmp_path / "m.optc", weights=False)
    again = load(tmp_path / "m.optc")
    assert module_digest(again) == module_digest(module)
    assert code(lambda: next(iter(again.graphs[0].constants.values())).array) == "E0110"


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.optc"
    save(two_layers(), path)
    data = bytearray(weights_path(path).read_bytes())
    data[-3] ^= 16
    weights_path(path).write_bytes(data)
    assert code(lambda: load(path)) == "E0111"
    assert load(path, check=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(keep=st.floats(0, 0.999))
def test_a_cut_weights_file_is_found(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "m.optc"
    save(two_layers(), path)
    data = weights_path(path).read_bytes()
    weights_path(path).write_bytes(data[: int(len(data) * keep)])
    assert code(lambda: load(path)) == "E0111"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(header=st.binary(max_size=200), body=st.binary(max_size=64))
def test_no_header_crashes_the_reader(tmp_path: Path, header: bytes, body: bytes) -> None:
    path = tmp_path / "w"
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    with suppress(OptcError):  # anything else is a crash
        read_weights(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.optc"
    if content is not None:
        path.write_bytes(content)
    assert code(lambda: load(path)) == "E0112"
