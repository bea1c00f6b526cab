"""Each op's coupling rule, by itself: free ports, random removals, against the masked meaning."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.ops import OPS, Op, Task
from optc.passes.prune.coupling import COUPLING, couplings
from optc.passes.prune.solution import FREE
from optc.passes.prune.ties import Whole
from tests.passes.prune.masking import equals_masked, some
from tests.strategies.instances import MAKERS, Instance, instances
from tests.strategies.values import closeness

FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
DRAWN = [kind for kind in OPS if kind in MAKERS]


def graph_of(instance: Instance) -> Graph:
    """A graph of one node whose inputs are the graph's."""
    builder = Builder()
    values = [builder.input(type) for type in instance.types]
    return builder.build(builder.emit_all(instance.op, *values))


def test_ops_that_stay_whole_say_why() -> None:
    whole = {kind: rule for kind, rule in COUPLING.items() if isinstance(rule, Whole)}
    assert set(whole) == {Task}
    assert all(rule.reason for rule in whole.values())


@pytest.mark.parametrize("kind", DRAWN, ids=lambda kind: kind.__name__)
@FEW
@given(data=st.data(), seed=st.integers(0, 99), share=st.sampled_from((0.3, 0.7, 1.0)))
def test_removal_is_masking(kind: type[Op], data: st.DataObject, seed: int, share: float) -> None:
    instance = data.draw(instances(kind))
    graph = graph_of(instance)
    kept = some(couplings(graph, ports=False), seed, share)
    dtypes = [value.type.dtype for value in graph.outputs if value.type.dtype.is_float]
    dtype = max(dtypes, key=lambda item: item.bits, default=DType.F32)
    bound = closeness(dtype, max(type.elements for type in instance.types))
    equals_masked(kept, instance.inputs(), max(bound.values()))


def test_something_is_free_in_most_ops() -> None:
    # A rule that pinned everything would pass the test above.
    whole = set()
    for kind in DRAWN:
        free = False

        @settings(FEW, max_examples=40, derandomize=True, database=None)
        @given(instances(kind))
        def look(instance: Instance) -> None:
            nonlocal free
            found = couplings(graph_of(instance), ports=False)
            free = free or bool((found.pin_of == FREE).any())

        look()
        whole |= set() if free else {kind}
    assert whole == set()
