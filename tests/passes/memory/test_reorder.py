"""Orders are valid, their peaks are what a walk counts, few nodes get the best of all orders."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.module import module_of
from optc.ir.ops import Concat, Reshape, ew
from optc.ir.targets.find import find_target
from optc.ir.types import TensorType
from optc.ir.verify import verify
from optc.passes.base import PassContext
from optc.passes.memory.footprint import Footprint, footprint
from optc.passes.memory.joins import joins_of
from optc.passes.memory.order import best_order
from optc.passes.memory.reorder_nodes import ReorderNodes

WIDTH = 16


@st.composite
def branching(draw: st.DrawFn, most: int = 7) -> Graph:
    """Rows of several heights: chains, sums, joins and views, read again later or never."""
    builder = Builder("branching")
    values: list[Value] = [
        builder.input(TensorType((draw(st.integers(1, 4)), WIDTH), DType.F32)) for _ in range(2)
    ]
    for _ in range(draw(st.integers(1, most))):
        value = draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["unary", "add", "join", "view"]))
        if kind == "add":
            alike = [other for other in values if other.shape == value.shape]
            values.append(builder.emit(ew.Add(), value, draw(st.sampled_from(alike))))
        elif kind == "join":
            parts = draw(st.lists(st.sampled_from(values), min_size=2, max_size=3))
            if sum(part.shape[0] for part in parts) <= 32:
                values.append(builder.emit(Concat(axis=0), *parts))
        elif kind == "view":
            turned = builder.emit(Reshape((WIDTH, value.shape[0])), value)
            values.append(builder.emit(Reshape(value.shape), turned))
        else:
            values.append(builder.emit(ew.Tanh(), value))
    outputs = draw(st.lists(st.sampled_from(values[2:] or values), min_size=1, max_size=2))
    return builder.build(outputs)


def orders(steps: Footprint) -> Iterator[tuple[int, ...]]:
    """Every order that can be executed."""

    def extended(order: tuple[int, ...], done: int) -> Iterator[tuple[int, ...]]:
        if len(order) == len(steps.nodes):
            yield order
        for step, needed in enumerate(steps.before):
            if not done >> step & 1 and not needed & ~done:
                yield from extended((*order, step), done | 1 << step)

    return extended((), 0)


def walked(steps: Footprint, order: tuple[int, ...]) -> int:
    """The peak, counted from first to last touch of each buffer."""
    when = {step: time for time, step in enumerate(order)}
    spans = []
    for buffer, size in enumerate(steps.sizes):
        times = [when[step] for step in order if steps.touching[buffer] >> step & 1]
        spans.append((size, min(times), len(order) if buffer in steps.kept else max(times)))
    return max(
        (sum(size for size, a, b in spans if a <= t <= b) for t in range(len(order))), default=0
    )


@given(branching(), st.booleans())
@settings(max_examples=150)
def test_few_nodes_get_the_best_of_all_orders(graph: Graph, outside: bool) -> None:
    steps = footprint(graph, outputs_outside=outside)
    best = best_order(steps)
    everything = list(orders(steps))
    assert best.steps in everything
    assert best.exact
    assert best.peak == walked(steps, best.steps) == steps.peak(best.steps)
    assert best.peak == min(walked(steps, order) for order in everything)


@given(branching(most=14))
@settings(max_examples=60)
def test_a_beam_is_valid_and_never_worse_than_the_given_order(graph: Graph) -> None:
    steps = footprint(graph)
    found = best_order(steps, states=0, beam=4)
    assert sorted(found.steps) == list(range(len(steps.nodes)))
    assert found.peak == walked(steps, found.steps) <= steps.peak(range(len(steps.nodes)))
    assert best_order(steps).peak <= found.peak


@given(branching(most=14))
@settings(max_examples=80)
def test_the_pass_gives_a_verified_module_of_the_same_nodes_once(graph: Graph) -> None:
    module = module_of(graph)
    ctx = PassContext(find_target("x86-64-v3"))
    result = ReorderNodes().run(module, ctx)
    assert not verify(result)
    assert set(result.graphs[0].nodes) == set(graph.nodes)
    assert ReorderNodes().run(result, ctx) is result
    if result is not module:
        before, after = (footprint(m.graphs[0]) for m in (module, result))
        assert after.peak(range(len(after.nodes))) < before.peak(range(len(before.nodes)))


def test_parts_that_are_joined_in_place_are_one_buffer() -> None:
    builder = Builder("join")
    x = builder.input(TensorType((4, WIDTH), DType.F32))
    parts = [builder.emit(op, x) for op in (ew.Tanh(), ew.Exp())]
    joined = builder.emit(Concat(axis=0), *parts)
    graph = builder.build([builder.emit(ew.Neg(), joined)])
    assert joins_of(graph)
    assert footprint(graph).sizes == (8 * WIDTH * np.float32().nbytes,)
