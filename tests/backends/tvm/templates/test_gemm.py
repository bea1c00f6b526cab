"""Products with constant weights: every ragged shape, epilogue, dtype and instruction set."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.tirx import PrimFunc

from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.dot import Words
from optc.backends.tvm.templates.panel_pack import PanelPack
from optc.backends.tvm.templates.plan import Problem
from optc.backends.tvm.templates.product import Product
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Linear, MatMul, Reshape, Transpose, ew
from optc.ir.targets.find import find_target
from optc.ir.targets.target import MemorySpace
from optc.ir.types import TensorType
from tests.backends.tvm.templates.agreement import Case, body, check

SHAPES = ((1, 1, 1), (1, 5, 7), (1, 130, 33), (2, 16, 64), (3, 33, 17), (15, 48, 8), (29, 100, 40))


def linear(
    m: int, n: int, k: int, dtype: DType = DType.F32, epilogue: str = "", bias: bool = True
) -> Case:
    """A linear layer with an epilogue named by its ops."""
    rows = TensorType((1, m, n), dtype)
    types = [TensorType((1, m, k), dtype), TensorType((n, k), dtype)]
    types += [TensorType((n,), dtype)] if bias else []
    types += [rows] if "residual" in epilogue else []

    def make(builder: Builder, *inputs: Value) -> Value:
        parameters = inputs[: 3 if bias else 2]
        value = builder.emit(Linear(), *parameters)
        if "gelu" in epilogue:
            value = builder.emit(ew.Gelu(), value)
        if "relu" in epilogue:
            value = builder.emit(ew.Relu(), value)
        if "residual" in epilogue:
            value = builder.emit(ew.Add(), value, inputs[-1])
        if "heads" in epilogue:
            value = builder.emit(Reshape((1, m, 2, n // 2)), value)
            value = builder.emit(Transpose((0, 2, 1, 3)), value)
        return value

    return body(types, make, range(1, 3 if bias else 2))


@pytest.mark.parametrize("target", ["host", "x86-64-v3", "x86-64-v2"])
def test_ragged_shapes_on_every_instruction_set(target: str) -> None:
    cases = [linear(*shape) for shape in SHAPES]
    assert set(check(cases, find_target(target))) == {"gemm/4"}


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_a_single_strip_asks_for_weights_that_no_cache_keeps(dtype: DType) -> None:
    near = find_target("host")
    memory = (MemorySpace("l1", 1 << 10), MemorySpace("l2", 1 << 12), MemorySpace("dram", 1 << 30))
    far = replace(near, memory=memory)
    shapes = (1, 130, 640), (3, 270, 129), (2, 1000, 65), (70, 130, 64)
    cases = [linear(*shape, dtype) for shape in shapes]
    assert set(check(cases, far)) == {"gemm/4"}
    for case in cases[:3]:
        plans = [match(Problem(case.body, case.constants, target))[0] for target in (near, far)]
        asks = [_asks(plan.emit("k", plan.candidates()[0]).function) for plan in plans]
        assert asks[0] == 0 < asks[1]


def _asks(function: PrimFunc) -> int:
    """Places in the code that ask for a line of the first-level cache."""
    return len(re.findall(r"llvm.prefetch.*?, 0, 3, 1\)", function.script()))


@pytest.mark.parametrize(
    "epilogue", ["gelu", "relu residual", "heads", "gelu heads", "gelu residual"]
)
def test_epilogues(epilogue: str) -> None:
    cases = [linear(5, 20, 9, epilogue=epilogue), linear(30, 64, 16, epilogue=epilogue)]
    assert set(check(cases)) == {"gemm/4"}


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F64])
def test_dtypes(dtype: DType) -> None:
    cases = [linear(5, 20, 9, dtype, epilogue) for epilogue in ("", "gelu residual")]
    assert set(check(cases)) == {"gemm/4"}


@settings(max_examples=6)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 140), st.integers(1, 50)),
        min_size=4,
        max_size=4,
    ),
    st.integers(0, 20),
)
def test_any_shape_with_any_knobs(shapes: list[tuple[int, int, int]], choice: int) -> None:
    check([linear(*shape, bias=False) for shape in shapes], choice=choice)


def test_matmul_by_weights_either_way_round() -> None:
    def case(transpose_b: bool) -> Case:
        x, weight = TensorType((2, 3, 9), DType.F32), (9, 21)
        right = TensorType(weight[::-1] if transpose_b else weight, DType.F32)
        op = MatMul(transpose_b=transpose_b)
        return body([x, right], lambda builder, a, b: builder.emit(op, a, b), [1])

    assert check([case(False), case(True)]) == ["gemm/4"] * 2


def test_prologue_is_computed_once_into_scratch() -> None:
    types = [TensorType((6, 12), DType.F32), TensorType((10, 12), DType.F32)]

    def make(builder: Builder, x: Value, weight: Value) -> Value:
        return builder.emit(Linear(), builder.emit(ew.Tanh(), x), weight)

    assert check([body(types, make, [1])]) == ["gemm/4"]


def test_moves_before_and_after() -> None:
    types = [TensorType((1, 4, 6, 8), DType.F32), TensorType((10, 32), DType.F32)]

    def make(builder: Builder, heads: Value, weight: Value) -> Value:
        merged = builder.emit(Transpose((0, 2, 1, 3)), heads)
        rows = builder.emit(Reshape((1, 6, 32)), merged)
        product = builder.emit(Linear(), rows, weight)
        return builder.emit(Transpose((2, 0, 1)), product)

    assert check([body(types, make, [1])]) == ["gemm/4"]


@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_panels_hold_every_weight_once(n: int, k: int, vectors: int, transposed: bool) -> None:
    pack = PanelPack(vectors * 16, 16, transposed, Words(DType.F32))
    weights = np.arange(1, n * k + 1, dtype=np.float32).reshape((n, k) if transposed else (k, n))
    packed = pack(weights)
    assert packed.shape == pack.type(TensorType(weights.shape, DType.F32)).shape
    assert sorted(packed[packed != 0]) == list(range(1, n * k + 1))
    matrix = weights.T if transposed else weights
    width = min(vectors * 16, -(-n // 16) * 16)
    assert (packed[: k * width].reshape(k, width)[:, : min(n, width)] == matrix[:, :width]).all()


def test_a_product_counts_leading_axes_as_rows() -> None:
    node = linear(12, 5, 7).body.nodes[0]
    assert (Product(node).m, Product(node).n, Product(node).k) == (12, 5, 7)
