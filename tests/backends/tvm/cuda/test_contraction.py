"""Tiled sums of products: every tile, ragged edges, batches, and what is fused around them."""

from __future__ import annotations

import pytest

from optc.backends.tvm.cuda.contraction import _TILES, Contraction, Tile, contraction_of, tile_of
from optc.backends.tvm.cuda.kernel import task_of
from optc.backends.tvm.cuda.task import Task
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import (
    Attention,
    Conv,
    ConvTranspose,
    Linear,
    MatMul,
    Reshape,
    Softmax,
    Transpose,
    ew,
)
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.cuda_emulator import Order
from tests.backends.tvm.cuda.launched import Launched
from tests.backends.tvm.templates.agreement import Case, body

GPU = find_target("cuda")


def f32(*shape: int) -> TensorType:
    return TensorType(shape, DType.F32)


def half(*shape: int) -> TensorType:
    return TensorType(shape, DType.F16)


def linear(b: Builder, x: Value, w: Value, bias: Value) -> Value:
    return b.emit(Linear(), x, w, bias)


def linear_gelu_add(b: Builder, x: Value, w: Value, bias: Value, other: Value) -> Value:
    return b.emit(ew.Add(), b.emit(ew.Gelu(), b.emit(Linear(), x, w, bias)), other)


def heads(b: Builder, x: Value, w: Value, bias: Value) -> Value:
    """What attention makes of a projection: split into heads and turned."""
    split = b.emit(Reshape((2, 21, 3, 12)), b.emit(Linear(), x, w, bias))
    return b.emit(Transpose((0, 2, 1, 3)), split)


CASES: dict[str, Case] = {
    "linear": body([f32(37, 51), f32(70, 51), f32(70)], linear),
    "epilogue": body([f32(2, 19, 40), f32(33, 40), f32(33), f32(2, 19, 33)], linear_gelu_add),
    "heads": body([f32(2, 21, 30), f32(36, 30), f32(36)], heads),
    "batched": body([f32(3, 2, 17, 23), f32(3, 2, 23, 29)], lambda b, x, y: b.emit(MatMul(), x, y)),
    "broadcast": body([f32(3, 1, 17, 23), f32(2, 23, 29)], lambda b, x, y: b.emit(MatMul(), x, y)),
    "transposed": body(
        [f32(3, 17, 23), f32(3, 29, 23)], lambda b, x, y: b.emit(MatMul(transpose_b=True), x, y)
    ),
    "prologue": body(
        [f32(40, 30), f32(30, 50)], lambda b, x, y: b.emit(MatMul(), b.emit(ew.Relu(), x), y)
    ),
    "half": body([half(40, 64), half(48, 64), half(48)], linear),
    "conv": body(
        [f32(2, 12, 11, 13), f32(24, 12, 3, 3), f32(24)],
        lambda b, x, w, c: b.emit(
            ew.Relu(), b.emit(Conv(stride=(2, 1), padding=((1, 1), (0, 2))), x, w, c)
        ),
    ),
    "conv of channels last": body(
        [f32(1, 11, 9, 20), f32(16, 20, 3, 3)],
        lambda b, x, w: b.emit(
            Conv(stride=(1, 1), padding=((1, 1), (1, 1)), channels_last=True), x, w
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_products_are_tiled_in_one_launch(name: str) -> None:
    case = CASES[name]
    assert only(case) is not None
    kernels = Launched([case.body])
    assert len(kernels.kernels[0].launches) == 1
    for order in Order:
        case.compare(1, kernels(0, case.inputs(1), order), name)


@pytest.mark.parametrize("tile", _TILES, ids=lambda tile: f"{tile.m}x{tile.n}x{tile.k}")
@pytest.mark.parametrize("extents", [(128, 128, 32), (131, 70, 19)])
def test_every_tile(
    tile: Tile, extents: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optc.backends.tvm.cuda.kernel.tile_of", lambda *_: tile)
    m, n, k = extents
    case = body([f32(m, k), f32(n, k), f32(n)], linear)
    kernels = Launched([case.body])
    (launch,) = kernels.kernels[0].launches
    assert launch.block == (tile.threads, 1, 1)
    assert launch.grid == (-(-m // tile.m) * -(-n // tile.n), 1, 1)
    for order in Order:
        case.compare(2, kernels(0, case.inputs(2), order), f"{tile}")


def test_large_products_take_large_tiles() -> None:
    large = only(body([f32(4096, 512), f32(4096, 512), f32(4096)], linear))
    small = only(body([f32(64, 512), f32(64, 512), f32(64)], linear))
    assert large is not None
    assert small is not None
    assert (
        tile_of(large, 108).m * tile_of(large, 108).n
        > tile_of(small, 108).m * tile_of(small, 108).n
    )


def test_a_row_times_a_matrix_is_shared_by_groups_of_threads() -> None:
    case = body([f32(1, 300), f32(50, 300), f32(50)], linear)
    assert only(case) is None
    kernels = Launched([case.body])
    assert len(kernels.kernels[0].launches) == 1
    case.compare(3, kernels(0, case.inputs(3), Order.BACKWARD), "row")


def test_a_strided_transposed_convolution_is_right() -> None:
    """Which taps reach an element depends on where it lies: no tile has them in common."""
    case = body(
        [f32(1, 10, 7, 6), f32(10, 9, 2, 2)],
        lambda b, x, w: b.emit(ConvTranspose(stride=(2, 2)), x, w),
    )
    kernels = Launched([case.body])
    case.compare(6, kernels(0, case.inputs(6), Order.BACKWARD), "conv transpose")


def test_attention_is_two_tiled_products_around_a_softmax() -> None:
    shape = f32(1, 2, 20, 136)  # too wide for one launch
    case = body([shape] * 3, lambda b, q, k, v: b.emit(Attention(scale=0.25), q, k, v))
    steps = Task(case.body, "probe").steps()
    assert sum(contraction_of(step) is not None for step in steps) == 2
    kernels = Launched([case.body])
    case.compare(4, kernels(0, case.inputs(4), Order.BACKWARD), "attention")


@pytest.mark.parametrize("shape", [(5, 100), (3, 4, 33), (2, 1000)])
def test_rows_are_one_launch(shape: tuple[int, ...]) -> None:
    case = body([f32(*shape)], lambda b, x: b.emit(Softmax(axis=len(shape) - 1), x))
    assert len(task_of(case.body, "probe", GPU).kernels) == 1
    kernels = Launched([case.body])
    for order in Order:
        case.compare(5, kernels(0, case.inputs(5), order), "softmax")


def only(case: Case) -> Contraction | None:
    """The contraction of a task of one step."""
    (step,) = Task(case.body, "probe").steps()
    return contraction_of(step)
