"""Pools, means and joins between byte layers: bytes in memory, and exactly the reference's bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.backends.reference.evaluate import run_graph
from optc.backends.tvm.templates.byte_sums import ByteSums
from optc.backends.tvm.templates.plan import Miss, Problem
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.ops import (
    AvgPool,
    Concat,
    MaxPool,
    Pad,
    ReduceMean,
    ReduceSum,
    ew,
)
from optc.ir.targets.detect import runs_here
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from tests.backends.tvm.byte_graphs import Bytes, between, tasks
from tests.backends.tvm.bytes import I8, I32, U8, check, windows_templates
from tests.backends.tvm.crossed import run_crossed

LEVELS = ("host", "x86-64-v3", "x86-64-v2")
HERE = tuple(name for name in LEVELS if runs_here(find_target(name)))
SAME = ((1, 1), (1, 1))


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("kind", [U8, I8])
def test_bytes_stay_bytes(target: str, kind: DType) -> None:
    image = TensorType((2, 37, 9, 8), kind)
    pools = [
        [AvgPool((3, 3), (2, 2), SAME, counted=SAME)],
        [AvgPool((2, 3), (2, 1)), ew.Relu()],
    ]
    found = [item for ops in pools for item in tasks(between(ops, image), target)]
    assert check(found, find_target(target)) <= {*windows_templates(target), "generic/1"}
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


@pytest.mark.needs("tool:qemu-aarch64-static")
@pytest.mark.parametrize("target", ["aarch64", "cortex-a76"])
def test_means_for_arm(target: str) -> None:
    image = TensorType((1, 7, 9, 8), I8)
    padded = AvgPool((3, 3), (2, 2), SAME, counted=SAME)
    graphs = [between([op], image) for op in (padded, ReduceMean((2, 3)), ReduceMean((1,)))]
    every = [Bytes(item.body, item.constants) for graph in graphs for item in tasks(graph, target)]
    found = run_crossed(every, target, "aarch64-linux-musl", "qemu-aarch64-static")
    for number, (case, outputs) in enumerate(zip(every, found, strict=True)):
        (wanted,) = run_graph(case.body, case.inputs(number))
        assert torch.equal(outputs[0], wanted), f"case {number} on {target}"
