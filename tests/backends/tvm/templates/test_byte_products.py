"""Products of bytes have exactly the integers' results, whatever the instructions are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.backends.tvm.templates.dot import Words, dot_of
from optc.backends.tvm.templates.panel_pack import PanelPack
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Linear, MatMul, Quantize, Reshape
from optc.ir.targets.detect import runs_here
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.bytes import EPILOGUES, F32, I8, U8, Task, check, products, task
from tests.backends.tvm.loaded import Loaded

LEVELS = ("host", "x86-64-v4", "x86-64-v3", "x86-64-v2")
HERE = tuple(name for name in LEVELS if runs_here(find_target(name)))
SHAPES = ((1, 1, 1), (1, 5, 7), (1, 130, 33), (2, 16, 64), (3, 33, 17), (15, 48, 8), (29, 100, 40))


def linear(m: int, n: int, k: int, kind: DType, epilogue: str = "", **options: object) -> Task:
    x, weight = TensorType((m, k), kind), TensorType((n, k), I8)
    return task(Linear(), x, weight, epilogue, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize("constant", [True, False], ids=["weights", "activations"])
def test_ragged_shapes_on_every_instruction_set(target: str, constant: bool) -> None:
    tasks = [linear(*shape, kind, constant=constant) for shape in SHAPES for kind in (U8, I8)]
    wanted = "gemm/4" if constant else "batch_matmul/1"
    assert check(tasks, find_target(target)) == {wanted}


@pytest.mark.needs("cpu:avx_vnni")
def test_narrow_vectors_with_byte_products() -> None:
    tasks = [linear(*shape, kind) for shape in SHAPES for kind in (U8, I8)]
    assert check(tasks, find_target("alderlake")) == {"gemm/4"}


def test_epilogues_run_on_the_tile() -> None:
    sizes = ((3, 20, 30, I8, I8), (17, 64, 16, U8, U8))
    tasks = [
        linear(*size, epilogue, result=result) for *size, result in sizes for epilogue in EPILOGUES
    ]
    assert check(tasks) == {"gemm/4"}


@given(products(), st.sampled_from(EPILOGUES), st.sampled_from(HERE), st.integers(0, 9))
@settings(max_examples=6, deadline=None)
def test_any_product(
    types: tuple[TensorType, TensorType], epilogue: str, target: str, choice: int
) -> None:
    assert check([task(Linear(), *types, epilogue)], find_target(target), choice) == {"gemm/4"}


@pytest.mark.parametrize("target", LEVELS)
def test_sums_do_not_saturate_at_sixteen_bits(target: str) -> None:
    machine = find_target(target)
    case = linear(1, 1, 4096, U8)
    inputs = [torch.full((1, 4096), 255, dtype=torch.uint8), torch.full((1, 4096), -128)]
    inputs[1] = inputs[1].to(torch.int8)
    loaded = Loaded([case.body], [case.constants], machine)
    assert loaded(0, inputs)[0].item() == -255 * 128 * 4096


@pytest.mark.parametrize("target", ["host", "x86-64-v3"])
def test_batches(target: str) -> None:
    tasks = []
    for left, right in product((U8, I8), repeat=2):
        wide, tall = TensorType((2, 3, 5, 9), left), TensorType((2, 1, 17, 64), left)
        rows, columns = TensorType((3, 9, 21), right), TensorType((2, 2, 33, 64), right)
        tasks += [
            task(MatMul(), wide, rows, constant=False),
            task(MatMul(True), tall, columns, constant=False),
            task(MatMul(), TensorType((4, 6), left), TensorType((6, 4), right)),
        ]
    assert check(tasks, find_target(target)) <= {"gemm/4", "batch_matmul/1"}


def test_what_comes_before_is_computed_once() -> None:
    def quantized(builder: Builder, x: Value) -> Value:
        scale, zero = builder.input(TensorType((), F32)), builder.input(TensorType((), I8))
        return builder.emit(Quantize(I8), builder.emit(Reshape((10, 33)), x), scale, zero)

    x, weight = TensorType((2, 5, 33), F32), TensorType((24, 33), I8)
    assert check([task(Linear(), x, weight, "requantize", before=quantized)]) == {"gemm/4"}


@given(st.integers(1, 70), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.sampled_from([0, 128]))
def test_panels_hold_neighbours_in_a_word(n: int, k: int, group: int, origin: int) -> None:
    words = Words(I8, group, origin if group == 4 else 0)
    weights = np.random.default_rng(n).integers(-128, 128, (n, k)).astype(np.int8)
    pack = PanelPack(32, 16, True, words)
    packed = pack(weights)
    assert TensorType(packed.shape, words.word) == pack.type(TensorType((n, k), I8))
    first = packed[: words.rows(k) * min(32, -(-n // 16) * 16)].reshape(words.rows(k), -1)
    if words.origin:
        assert first[0, 0] == words.origin * int(weights[0].astype(np.int64).sum())
        first = first[1:]
    column = np.ascontiguousarray(first[:, 0]).view(np.int8)
    assert list(column[:k]) == list(weights[0])
    assert not column[k:].any()


def test_instructions_follow_the_features() -> None:
    found = {level: dot_of(find_target(level), U8, I8) for level in LEVELS[1:]}
    assert [dot.group for dot in found.values()] == [2, 2, 2]
    assert dot_of(find_target("cascadelake"), I8, I8).flipped
    assert not dot_of(find_target("cascadelake"), U8, I8).flipped
    assert dot_of(find_target("neoverse-n1"), U8, I8).intrinsic.endswith("sdot")
    assert dot_of(find_target("neoverse-v1"), U8, I8).intrinsic.endswith("usdot")
