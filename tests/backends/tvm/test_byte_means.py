"""Pools, means and joins between byte layers: bytes in memory, and exactly the reference's bits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.backends.tvm.templates.byte_sums import ByteSums
from optc.backends.tvm.templates.plan import Miss, Problem
from optc.driver import lower_module
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.module import module_of
from optc.ir.ops import (
    AvgPool,
    Concat,
    Dequantize,
    MaxPool,
    Op,
    Pad,
    Quantize,
    ReduceMean,
    ReduceSum,
    Task,
    ew,
)
from optc.ir.targets.catalogue import find_target
from optc.ir.types import TensorType
from tests.backends.tvm import bytes as cases
from tests.backends.tvm.bytes import F32, I8, I32, U8, check, windows_template
from tests.backends.tvm.loaded import runs_here

LEVELS = ("host", "x86-64-v3", "x86-64-v2")
HERE = tuple(name for name in LEVELS if runs_here(find_target(name)))
SAME = ((1, 1), (1, 1))


def between(ops: Sequence[Op], *inputs: TensorType, zero: int = 3) -> Graph:
    """Ops over dequantized inputs, each with a scale of its own, quantized again."""
    builder = Builder("bytes")
    kind = inputs[0].dtype
    values: list[Value] = []
    for number, type in enumerate(inputs):
        scale = builder.splat(0.5 + number, TensorType((), F32))
        held = builder.splat(zero + number, TensorType((), kind))
        values.append(builder.emit(Dequantize(), builder.input(type), scale, held))
    value = builder.emit(ops[0], *values)
    for op in ops[1:]:
        value = builder.emit(op, value)
    scale = builder.splat(0.75, TensorType((), F32))
    return builder.build(
        [builder.emit(Quantize(kind), value, scale, builder.splat(zero, TensorType((), kind)))]
    )


def tasks(graph: Graph, target: str) -> list[cases.Task]:
    """The tasks of a graph as a compilation makes them; nothing but bytes lies between them."""
    lowered = lower_module(module_of(graph), find_target(target)).graphs[0]
    for node in lowered.nodes:
        assert all(value.type.dtype in (U8, I8) for value in node.outputs), node.op.name
    return [
        cases.Task(node.op.body, frozenset(i for i, v in enumerate(node.inputs) if v in constants))
        for constants in (lowered.constants,)
        for node in lowered.nodes
        if isinstance(node.op, Task)
    ]


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("kind", [U8, I8])
def test_bytes_stay_bytes(target: str, kind: DType) -> None:
    image = TensorType((2, 37, 9, 8), kind)
    pools = [
        [AvgPool((3, 3), (2, 2), SAME, counted=SAME)],
        [AvgPool((2, 3), (2, 1)), ew.Relu()],
    ]
    found = [item for ops in pools for item in tasks(between(ops, image), target)]
    assert check(found, find_target(target)) <= {windows_template(target), "generic/1"}
    means = [
        tasks(between([ReduceMean((2, 3))], image), target),
        tasks(between([ReduceMean((1,), True)], TensorType((3, 50, 24), kind)), target),
        tasks(between([ReduceMean((1,))], TensorType((9, 33), kind), zero=0), target),
    ]
    sums = [item for items in means for item in items]
    assert "byte_sums/1" in check(sums, find_target(target))
    joined = tasks(between([Concat(1)], image, TensorType((2, 5, 9, 8), kind)), target)
    pad = Pad((0, 0, 1, 0), (0, 0, 0, 1))
    moved = tasks(between([pad, MaxPool((3, 3), (2, 2), SAME)], image), target)
    assert joined
    assert moved
    check([*joined, *moved], find_target(target))


@st.composite
def means(draw: DrawFn) -> Graph:
    """A pool or a mean over bytes of any shape."""
    kind = draw(st.sampled_from((U8, I8)))
    size = [draw(st.integers(1, 2)), draw(st.integers(1, 70)), *(draw(st.integers(3, 12)),) * 2]
    image = TensorType(tuple(size), kind)
    if draw(st.booleans()):
        axes = draw(st.sets(st.integers(1, 3), min_size=1))
        return between([ReduceMean(tuple(sorted(axes)), draw(st.booleans()))], image)
    low, high = (draw(st.integers(0, 1)) for _ in range(2))
    kernel, stride = (
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
    )
    padding = ((low, high), (high, low))
    return between([AvgPool(kernel, stride, padding, counted=padding)], image)


@given(means(), st.sampled_from(HERE))
@settings(max_examples=8, deadline=None)
def test_any_mean(graph: Graph, target: str) -> None:
    check(tasks(graph, target), find_target(target))


def test_sums_of_others_go_elsewhere() -> None:
    builder = Builder("sums")
    x = builder.input(TensorType((4, 9), I32))
    body = builder.build([builder.emit(ReduceSum((0,)), x)])
    answer = ByteSums().match(Problem(body, frozenset(), find_target("host")))
    assert isinstance(answer, Miss)
    assert "no bytes" in answer.reason
