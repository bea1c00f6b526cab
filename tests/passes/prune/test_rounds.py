"""Rounds: the widths of one round, what masking computes, and less lost where layers are mended."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optc.backends.reference.evaluate import run_graph
from optc.backends.reference.masked import run_graph_masked
from optc.ir.diagnostics import OptcError
from optc.ir.graph import Graph, Value
from optc.ir.module import Module, module_of
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.base import PassContext
from optc.passes.pipeline import Pipeline
from optc.passes.prune.prune_channels import PruneChannels
from optc.passes.prune.rounds import prune
from optc.passes.prune.selection import apart_of, select
from optc.passes.prune.surgery import remove
from tests.passes.prune.networks import image_nets, text_nets
from tests.passes.prune.test_networks import inputs_of
from tests.passes.prune.test_recovery import CHAIN

# One layer's width holds two families, one behind the other.
SPLIT = """graph @main(%x: 1x4xf32) {
  %w = constant {seed=1} : 12x4xf32
  %v = constant {seed=2} : 3x8xf32
  %u = constant {seed=3} : 3x4xf32
  %a = linear(%x, %w) : 1x12xf32
  %p = slice(%a) {starts=(0, 0), stops=(1, 8), steps=(1, 1)} : 1x8xf32
  %q = slice(%a) {starts=(0, 8), stops=(1, 12), steps=(1, 1)} : 1x4xf32
  %y = linear(%p, %v) : 1x3xf32
  %z = linear(%q, %u) : 1x3xf32
  return %y, %z
}
"""
SOME = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@SOME
@given(
    graph=st.one_of(image_nets(), text_nets()),
    rounds=st.integers(2, 5),
    align=st.sampled_from((1, 2)),
)
def test_rounds_end_at_the_widths_of_one_and_equal_masking(
    graph: Graph, rounds: int, align: int
) -> None:
    module = module_of(graph)
    once, often = (PassContext(find_target("x86-64-v3")) for _ in range(2))
    step = PruneChannels(ratio=0.6, align=align)
    single = step.run(module, once)
    several = PruneChannels(ratio=0.6, align=align, rounds=rounds).run(module, often)
    selected = select(module, PassContext(find_target("x86-64-v3")), step.request)
    for node, same in zip(remove(selected[0]).nodes, single.graphs[0].nodes, strict=True):
        assert [v.type for v in node.outputs] == [v.type for v in same.outputs]
    assert [found.message for found in often.diagnostics] == [
        found.message for found in once.diagnostics
    ]
    for a, b in zip(single.graphs[0].nodes, several.graphs[0].nodes, strict=True):
        assert [v.type for v in a.outputs] == [v.type for v in b.outputs]
    if several is module:
        return
    (separate,), (after,) = apart_of(module).graphs, several.graphs
    new_of = {
        often.lineage.origin(value).value: value
        for value in after.values()
        if value not in after.constants
    }

    def keep(value: Value, axis: int) -> np.ndarray:
        mask = np.zeros(value.shape[axis], dtype=bool)
        new = new_of.get(value)
        mask[slice(None) if new is None else often.lineage.origin(new).kept[axis]] = True
        return mask

    with torch.no_grad():
        inputs = inputs_of(graph)
        wanted = run_graph_masked(separate, inputs, keep)
        found = run_graph(after, inputs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_families_that_share_a_layer_are_told_apart(rounds: int) -> None:
    step = PruneChannels(ratio=0.5, align=1, rounds=rounds)
    (graph,) = step.run(parse(SPLIT), PassContext(find_target("x86-64-v3"))).graphs
    assert {v.hint: v.shape for v in graph.constants} == {"w": (6, 4), "v": (3, 4), "u": (3, 2)}


def test_each_round_removes_its_part_and_is_mended() -> None:
    widths = []

    def recover(module: Module, _: PassContext) -> Module:
        widths.append([v.shape[0] for v in module.graphs[0].constants if v.hint in ("w", "v")])
        return module

    request = PruneChannels(ratio=0.5, align=1).request
    context = PassContext(find_target("x86-64-v3"))
    prune(parse(CHAIN), context, request, rounds=4, recover=recover)
    assert widths == [[7, 5], [6, 5], [5, 5], [4, 5]]


def test_a_round_is_one_at_least() -> None:
    with pytest.raises(ValueError, match="rounds is a positive number, not 0"):
        PruneChannels(rounds=0)
    with pytest.raises(OptcError, match="rounds"):
        Pipeline.parse("prune-channels{rounds=0}")
