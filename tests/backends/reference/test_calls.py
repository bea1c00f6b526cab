"""Many calls at once are the same calls one by one: every op, every way out, every stage."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optc.backends.reference.calls import (
    Stack,
    calls_at_once,
    chunks,
    run_calls,
    run_stacks,
    see_calls,
)
from optc.backends.reference.evaluate import run_node
from optc.backends.reference.trace import trace
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Node, Value
from optc.ir.ops import OPS, Op
from optc.ir.ops import elementwise as ew
from optc.ir.types import TensorType
from tests.strategies.exiting import Exiting, exiting
from tests.strategies.instances import MAKERS, instances, sample
from tests.strategies.values import closeness

GENERATED = [kind for kind in OPS if kind in MAKERS]
CALLS = 3


@pytest.mark.parametrize("kind", GENERATED, ids=lambda kind: kind.__name__)
def test_a_node_means_for_each_call_what_it_means_for_one(kind: type[Op]) -> None:
    """The second input, where there is one, is the same in every call in half of the draws."""
    for number, instance in enumerate(sample(instances(kind), 4)):
        outputs = tuple(Value(type) for type in instance.op.infer(*instance.types))
        node = Node(instance.op, tuple(Value(type) for type in instance.types), outputs)
        given = [instance.inputs() for _ in range(CALLS)]
        shared = {1} if number % 2 and len(instance.types) > 1 else set()
        places = torch.arange(CALLS)
        stacks = [
            Stack(given[0][i])
            if i in shared
            else Stack(torch.stack([call[i] for call in given]), places)
            for i in range(len(instance.types))
        ]
        found = [stack.spread(places) for stack in run_stacks(node, stacks)]
        longest = max(type.elements for type in instance.types)
        for call, inputs in enumerate(given):
            mine = [given[0][i] if i in shared else x for i, x in enumerate(inputs)]
            for many, one, value in zip(found, run_node(node, mine), outputs, strict=True):
                torch.testing.assert_close(
                    many[call], one, equal_nan=True, **closeness(value.type.dtype, longest)
                )


@settings(max_examples=60)
@given(exiting(), st.integers(0, 2))
def test_each_call_leaves_where_it_leaves_alone(case: Exiting, seed: int) -> None:
    draw = np.random.default_rng(seed)
    calls = [{"x": x.numpy()} for x in case.calls]
    calls += [{"x": draw.standard_normal((3, 3)).astype(np.float32)} for _ in range(5)]
    for inputs, found in zip(calls, run_calls(case.module, calls), strict=True):
        wanted = trace(case.module, inputs)
        assert list(found) == list(wanted)
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


@settings(max_examples=20)
@given(exiting())
def test_every_stage_is_seen_for_every_call(case: Exiting) -> None:
    calls = [{"x": x.numpy()} for x in case.calls]
    wanted = [
        value for graph in case.module.graphs for node in graph.nodes for value in node.outputs
    ]
    seen: dict[Value, np.ndarray] = {}
    see_calls(case.module, calls, wanted, seen.__setitem__)
    for call, inputs in enumerate(calls):
        alone: dict[Value, np.ndarray] = {}
        trace(case.module, inputs, wanted, alone.__setitem__, leave=False)
        assert set(alone) == set(seen)
        for value, array in alone.items():
            np.testing.assert_allclose(seen[value][call], array, rtol=1e-5, atol=1e-6)


@settings(max_examples=40)
@given(exiting(), st.integers(1, 4))
def test_a_call_is_run_by_no_stage_behind_its_exit(case: Exiting, size: int) -> None:
    """Counted: calls that a stage ran are those whose single run comes to it."""
    stage = case.module.graphs[-1]
    assume(stage.nodes)
    wanted = stage.nodes[-1].outputs[0]
    calls = [{"x": x.numpy()} for x in case.calls[:size]]
    alone: list[Value] = []
    for inputs in calls:
        trace(case.module, inputs, [wanted], lambda value, _: alone.append(value))
    assert len(alone) == _ran(case, calls, wanted)


def _ran(case: Exiting, calls: list[Mapping[str, np.ndarray]], wanted: Value) -> int:
    from optc.backends.reference import calls as tested
    from optc.ir.flow import ways_out

    rows: list[int] = []
    walk = tested._Walk(case.module, calls, frozenset([wanted]), lambda _, a: rows.append(len(a)))
    for way in ways_out(case.module, walk.given, walk.run):
        if way.condition is not None:
            walk.leave(way.condition)
        if not len(walk.there):
            break
    return sum(rows)


def test_large_values_are_walked_in_small_groups() -> None:
    builder = Builder("g")
    x = builder.input(TensorType((1, 4 << 20), DType.F32))
    graph = builder.build([builder.emit(ew.Relu(), x)])
    assert calls_at_once((graph,)) == 2
    assert calls_at_once(()) == 64


def test_chunks_hold_everything_in_order() -> None:
    assert list(chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]
