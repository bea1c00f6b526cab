"""Costs against numbers counted by hand, and against how tasks save memory traffic."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from optc.ir.builder import Builder
from optc.ir.cost import Cost, cost, total
from optc.ir.graph import Graph, Node
from optc.ir.ops import (
    AdaptiveAvgPool,
    Attention,
    Conv,
    ConvTranspose,
    Linear,
    Lstm,
    MatMul,
    MaxPool,
    Op,
    Reduction,
    Reshape,
    ScatterElements,
    Softmax,
    Take,
    Task,
    ew,
)
from optc.ir.types import parse_type


def node_of(op: Op, *types: str) -> Node:
    """A node on inputs of these types."""
    builder = Builder()
    builder.emit_all(op, *(builder.input(parse_type(text)) for text in types))
    return builder.nodes[0]


@pytest.mark.parametrize(
    ("op", "types", "flops"),
    [
        (ew.Add(), ["4x8xf32", "8xf32"], 32),
        (ew.Cast(), ["4x8xf16"], 0),
        (MatMul(), ["2x3x5xf32", "5x7xf32"], 2 * 2 * 3 * 7 * 5),
        (Linear(), ["3x5xf32", "7x5xf32", "7xf32"], 2 * 3 * 7 * 5 + 3 * 7),
        (Conv((1, 1), ((1, 1),) * 2), ["1x4x6x6xf32", "8x4x3x3xf32"], 2 * 8 * 4 * 16 * 16),
        (Conv((1, 1), ((1, 1),) * 2, (1, 1), 4), ["1x4x6x6xf32", "4x1x3x3xf32"], 2 * 4 * 16 * 16),
        (ConvTranspose((2, 2)), ["1x4x6x6xf32", "4x8x2x2xf32"], 2 * 4 * 36 * 8 * 4),
        (MaxPool((2, 2), (2, 2)), ["1x3x4x4xf32"], 3 * 4 * 4),
        (AdaptiveAvgPool((1, 1)), ["1x3x4x5xf32"], 3 * 20),
        (Softmax(1), ["2x8xf32"], 4 * 16),
        (Attention(), ["1x2x3x4xf32"] * 3, 2 * 9 * (2 * 4 + 2 * 4 + 4)),
        (Attention(1.0, True), ["1x2x3x4xf32"] * 3, 2 * 6 * (2 * 4 + 2 * 4 + 4)),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, Op) else None,
)
def test_operations_are_those_counted_by_hand(op: Op, types: Sequence[str], flops: int) -> None:
    assert cost(node_of(op, *types)).flops == flops


def test_an_lstm_step_is_its_two_products_and_little_more() -> None:
    types = ["3x2x5xf32", "2x7xf32", "2x7xf32", "28x5xf32", "28x7xf32", "28xf32", "28xf32"]
    products = 3 * 2 * 2 * 28 * (5 + 7)
    assert products < cost(node_of(Lstm(), *types)).flops < 1.2 * products


def test_bytes_are_what_a_kernel_moves() -> None:
    assert cost(node_of(ew.Add(), "4x8xf32", "8xf32")) == Cost(32, 160, 128)
    assert cost(node_of(Reshape((32,)), "4x8xf32")) == Cost(0, 0, 0)
    assert cost(node_of(ew.Cast(), "8xbf16")).bytes_read == 16


def test_picking_rows_reads_only_those_rows() -> None:
    assert cost(node_of(Take(0), "1000x4xf32", "3xi64")).bytes_read == 3 * 4 * 4 + 3 * 8
    assert cost(node_of(Take(0), "2x4xf32", "9xi64")).bytes_read == 2 * 4 * 4 + 9 * 8


def test_scatter_counts_its_additions() -> None:
    types = ("8xf32", "5xi64", "5xf32")
    assert cost(node_of(ScatterElements(0, Reduction.ADD), *types)).flops == 5
    assert cost(node_of(ScatterElements(0), *types)).flops == 0


def two_steps() -> Graph:
    builder = Builder()
    x = builder.input(parse_type("16xf32"))
    return builder.build([builder.emit(ew.Exp(), builder.emit(ew.Neg(), x))])


def test_a_task_computes_its_nodes_and_moves_only_its_border() -> None:
    body = two_steps()
    task = cost(node_of(Task(body), "16xf32"))
    apart = total(body.nodes)
    assert task == Cost(32, 64, 64)
    assert apart == Cost(32, 128, 128)
    assert apart.bytes == 256


def test_a_task_reads_no_input_twice() -> None:
    builder = Builder()
    x = builder.input(parse_type("16xf32"))
    body = builder.build([builder.emit(ew.Mul(), x, builder.emit(ew.Neg(), x))])
    assert cost(node_of(Task(body), "16xf32")).bytes_read == 64


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2), (5, 0)])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (4, 2), (2, 5)])
def test_taps_in_the_padding_are_no_work(
    stride: int, padding: tuple[int, int], kernel: int, dilation: int
) -> None:
    """Counted one by one; a convolution over one axis, two channels each way."""
    op = Conv((stride,), (padding,), (dilation,))
    node = node_of(op, "3x2x9xf32", f"4x2x{kernel}xf32")
    taps = 0
    for place in range(node.output.shape[2]):
        reads = (place * stride - padding[0] + tap * dilation for tap in range(kernel))
        taps += sum(0 <= read < 9 for read in reads)
    assert cost(node).flops == 2 * 3 * 2 * 4 * taps
