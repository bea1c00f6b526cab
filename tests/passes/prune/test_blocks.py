"""Blocks left out: the graph equals the one with those branches switched off; the search finds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import optc
from optc.backends.reference.dtypes import to_tensor
from optc.backends.reference.evaluate import run, run_graph, run_node
from optc.backends.reference.fold import evaluate_constants
from optc.ir.constant import constant
from optc.ir.diagnostics import OptcError
from optc.ir.graph import Graph, Value
from optc.ir.module import Module, module_of
from optc.ir.targets.find import find_target
from optc.ir.verify import verify
from optc.passes.base import PassContext
from optc.passes.pipeline import Pipeline
from optc.passes.prune.blocks import Kind, blocks_of, without
from optc.passes.prune.search import Choice, Seen, evolutionary, exhaustive, greedy
from optc.passes.quality import Part
from optc.passes.sampling import drawn
from optc.quality.evidence import DataRequest, Evidence
from tests.passes.prune.networks import image_nets, text_nets
from tests.passes.prune.test_networks import inputs_of


def switched_off(
    graph: Graph, inputs: Sequence[torch.Tensor], ends: dict[Value, Value]
) -> tuple[torch.Tensor, ...]:
    """The whole graph, run node by node, the value of each end overwritten with its start's."""
    values = dict(zip(graph.inputs, inputs, strict=True))
    values |= {value: to_tensor(item) for value, item in graph.constants.items()}
    for node in graph.nodes:
        results = run_node(node, [values[value] for value in node.inputs])
        for value, item in zip(node.outputs, results, strict=True):
            values[value] = values[ends[value]] if value in ends else item
    return tuple(values[value] for value in graph.outputs)


@settings(max_examples=40, deadline=None)
@given(graph=st.one_of(image_nets(), text_nets()), data=st.data())
def test_a_graph_without_blocks_is_the_graph_with_them_switched_off(
    graph: Graph, data: st.DataObject
) -> None:
    blocks = blocks_of(graph)
    chosen = [block for block in blocks if data.draw(st.booleans())]
    after = without(graph, chosen)
    assert (after is graph) == (not chosen)
    assert not verify(module_of(after))
    inputs = inputs_of(graph)
    wanted = switched_off(graph, inputs, {block.end: block.start for block in chosen})
    for ours, theirs in zip(run_graph(after, inputs), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)
    gone = {node for block in chosen for node in block.nodes}
    assert len(after.nodes) <= len(graph.nodes) - len(gone)


class Layer(torch.nn.Module):
    """A transformer layer, norms first, whose branches can be switched off."""

    def __init__(self, width: int) -> None:
        super().__init__()
        n = torch.nn
        self.norm1, self.norm2 = n.LayerNorm(width), n.LayerNorm(width)
        self.qkv, self.join = n.Linear(width, 3 * width), n.Linear(width, width)
        self.mlp = n.Sequential(n.Linear(width, 2 * width), n.GELU(), n.Linear(2 * width, width))
        self.on = [True, True]

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        b, s, e = x.shape
        q, k, v = self.qkv(x).reshape(b, s, 3, 4, e // 4).permute(2, 0, 3, 1, 4)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.join(y.transpose(1, 2).reshape(b, s, e))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x)) if self.on[0] else x
        return x + self.mlp(self.norm2(x)) if self.on[1] else x


class Encoder(torch.nn.Module):
    def __init__(self, depth: int = 3, width: int = 16) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer(width) for _ in range(depth))
        self.head = torch.nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def encoder(seed: int) -> tuple[Encoder, Module, PassContext]:
    torch.manual_seed(seed)
    model = Encoder().eval()
    for layer in model.layers:  # branches that matter in different degrees
        for part in (layer.join, layer.mlp[2]):
            part.weight.data *= float(torch.rand(()) * 3)
    captured = optc.capture(model, (torch.zeros(6, 6, 16),))
    samples = np.random.default_rng(seed).standard_normal((60, 6, 16)).astype(np.float32)
    evidence = Evidence(captured, DataRequest({captured.inputs[0].name: samples}))
    context = PassContext(
        find_target("x86-64-v3"),
        evaluate=evaluate_constants,
        calibration=evidence.calibration,
        judge=evidence.judge,
    )
    clean = "canonicalize,raise-softmax,raise-layer-norm,raise-gelu,canonicalize,raise-attention"
    return model, Pipeline.parse(clean).run(captured, context), context


def test_each_branch_of_a_transformer_is_a_block_and_leaves_like_in_pytorch() -> None:
    model, module, _ = encoder(0)
    (graph,) = module.graphs
    blocks = blocks_of(graph)
    assert [block.kind for block in blocks] == [Kind.ATTENTION, Kind.MLP] * 3
    assert [block.name.split(".")[1] for block in blocks] == list("001122")
    x = torch.randn(6, 6, 16)
    for number, block in enumerate(blocks):
        model.layers[number // 2].on[number % 2] = False
        shallower = module.with_graphs((without(graph, [block]),))
        (ours,) = run(shallower, {module.inputs[0].name: x}).outputs.values()
        torch.testing.assert_close(ours, model(x), rtol=1e-4, atol=1e-5)
        model.layers[number // 2].on[number % 2] = True


def test_the_searches_agree_where_all_choices_can_be_tried() -> None:
    _, module, context = encoder(1)
    found = {}
    for search in ("exhaustive", "evolutionary"):
        step = Pipeline.parse(f"prune-blocks{{k=2,search={search},calls=0,population=4}}")
        found[search] = step.run(module, context)
    lost = {
        name: context.needed_judge("test").compare(after, Part.CALIBRATION).drop
        for name, after in found.items()
    }
    assert lost["evolutionary"] == lost["exhaustive"]
    assert len(found["exhaustive"].graphs[0].nodes) == len(found["evolutionary"].graphs[0].nodes)


def test_remarks_say_what_went_and_what_it_costs() -> None:
    _, module, context = encoder(2)
    after = Pipeline.parse("prune-blocks{k=2,search=greedy,calls=2}").run(module, context)
    remarks = [finding for finding in context.diagnostics if finding.code == "N0312"]
    assert len(remarks) == 2
    assert all("of the operations; alone it costs" in finding.message for finding in remarks)
    assert len(blocks_of(after.graphs[0])) == 4


def test_more_blocks_than_there_are_is_the_users_error() -> None:
    _, module, context = encoder(3)
    with pytest.raises(OptcError, match="E0135") as caught:
        Pipeline.parse("prune-blocks{k=7}").run(module, context)
    assert caught.value.diagnostics[0].help == "-p 'prune-blocks{k=6}'"
    assert "has 6" in caught.value.diagnostics[0].message


def test_a_metric_that_is_no_number_is_the_users_error() -> None:
    _, module, context = encoder(4)
    (graph,) = module.graphs
    broken = {
        value: constant(np.full(value.shape, np.nan, np.float32))
        if value.hint == "head.weight"
        else item
        for value, item in graph.constants.items()
    }
    poisoned = module.with_graphs((replace(graph, constants=broken),))
    samples = {module.inputs[0].name: np.zeros((40, 6, 16), np.float32)}
    evidence = Evidence(module, DataRequest(samples, metric="cosine"))
    sick = replace(context, judge=evidence.judge, calibration=evidence.calibration)
    with pytest.raises(OptcError, match="E0136"):
        Pipeline.parse("prune-blocks{k=2}").run(poisoned, sick)


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, int, dict[Choice, float]]:
    """Costs that add up but for pairs, which are cheaper or dearer together."""
    n = draw(st.integers(2, 9))
    k = draw(st.integers(1, n - 1))
    numbers = np.random.default_rng(draw(st.integers(0, 10_000)))
    alone, pairs = numbers.random(n), numbers.normal(0, 0.5, (n, n))
    table = {
        frozenset(choice): float(
            alone[list(choice)].sum()
            + sum(pairs[a, b] for a, b in itertools.combinations(choice, 2))
        )
        for choice in itertools.combinations(range(n), k)
    }
    return n, k, table


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 99))
def test_evolution_finds_the_optimum_of_small_spaces(
    problem: tuple[int, int, dict[Choice, float]], seed: int
) -> None:
    n, k, table = problem
    asked: list[Choice] = []

    def cost(choice: Choice) -> tuple[float, ...]:
        asked.append(choice)
        return (table[choice],)

    best = exhaustive(n, k, Seen(cost))
    asked.clear()
    found = evolutionary(n, k, Seen(cost), population=10, generations=20, seed=seed)
    assert found == best
    assert len(asked) == len(set(asked)) <= len(table)


@pytest.mark.parametrize("seed", range(3))
def test_evolution_is_no_worse_than_chance_where_pairs_matter(seed: int) -> None:
    """20 blocks, 8 to remove: 125,970 choices, of which each looks at 400."""
    numbers = np.random.default_rng(seed)
    alone, pairs = numbers.random(20), np.triu(numbers.normal(0, 0.3, (20, 20)), 1)

    def cost(choice: Choice) -> tuple[float, ...]:
        rows = sorted(choice)
        return (float(alone[rows].sum() + pairs[np.ix_(rows, rows)].sum()),)

    ours = evolutionary(20, 8, Seen(cost), population=20, generations=20, seed=seed)
    draws = [frozenset(numbers.permutation(20)[:8].tolist()) for _ in range(400)]
    assert cost(ours) < min(map(cost, draws))


def test_greed_takes_the_cheapest_next() -> None:
    table = {(0,): 1.0, (1,): 2.0, (2,): 3.0, (0, 1): 9.0, (0, 2): 5.0, (1, 2): 4.0}
    seen = Seen(lambda choice: (table[tuple(sorted(choice))],))
    assert greedy(3, 2, seen) == {0, 2}
    assert exhaustive(3, 2, seen) == {1, 2}


def test_samples_are_drawn_from_every_cluster() -> None:
    numbers = np.random.default_rng(0)
    common, rare = numbers.normal(0, 1, (95, 4)), numbers.normal(50, 1, (5, 4))
    rows = drawn(np.concatenate([common, rare]), 10, seed=0)
    assert len(set(rows)) == 10
    assert any(row >= 95 for row in rows)
    assert rows == drawn(np.concatenate([common, rare]), 10, seed=0)
