"""Tables of pruning and memory: what is kept from run to run, and the bound of writing in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings

from benchmarks import memory, prune_quality, prune_results
from benchmarks.in_place import in_place, peak_in_place
from optc.ir.graph import Graph
from optc.ir.text import parse
from optc.passes.memory.footprint import footprint
from tests.passes.memory.test_reorder import branching

STEP = prune_results.Pruned("prune-channels", (1000, 700), (2000, 1000), 3, 1, 1e-15, 1e-6, 0.1)
RESULT = prune_results.Result("mixer", 0.3, "2026-01-02", (STEP,), 1e-7, 4.0)


def chain() -> Graph:
    """Three nodes of one size: the second may go over what the first made."""
    (graph,) = parse(
        "graph @main(%x: 4x16xf32) {\n  %a = tanh(%x) : 4x16xf32\n  %b = exp(%a) : 4x16xf32\n"
        "  %s = reduce_sum(%b) {axes=(1,)} : 4xf32\n  return %s\n}\n"
    ).graphs
    return graph


def test_a_chain_needs_one_buffer_where_it_is_written_in_place() -> None:
    graph = chain()
    assert footprint(graph).peak((0, 1, 2)) == 2 * 256
    assert peak_in_place(graph) == 256
    tanh, exp, fold = graph.nodes
    assert [*in_place(exp)] == [(tanh.output, exp.output)]
    assert not [*in_place(fold)]


@given(branching())
@settings(max_examples=100)
def test_in_place_is_never_more_and_at_least_what_one_node_holds(graph: Graph) -> None:
    steps = footprint(graph)
    peak = steps.peak(range(len(steps.nodes)))
    found = peak_in_place(graph)
    assert peak / 2 <= found <= peak


def test_results_of_pruning_replace_older_ones_and_stay_in_order(tmp_path: Path) -> None:
    path, order = tmp_path / "prune.json", ["unet", "mixer"]
    failed = replace(RESULT, steps=(), artifact=None, problem="OptcError: E1")
    prune_results.merge(path, failed, order)
    assert not prune_results.read(path)["mixer 0.3"].is_done
    prune_results.merge(path, RESULT, order)
    other = replace(RESULT, model="unet", steps=(replace(STEP, masking=1e-5),), times=(2.0, 1.0))
    found = prune_results.merge(path, other, order)
    assert [*found.values()] == [other, RESULT]
    assert prune_results.read(path) == found
    assert RESULT.is_right
    assert not other.is_right
    text = prune_results.markdown(found)
    assert "2 models, 2 with something to prune, 2 of them compiled and run; 1 equal" in text
    assert "not: unet" in text
    assert "| unet | 2.000 | 1.000 | 50.0% |" in text


def test_memory_and_quality_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    arena = memory.Arena(5, 120, 100, 80, 100, 100)
    tiered = memory.Tiered(0.1, 64, (3, 4), (1, 0), 3.0, 2.0)
    result = memory.Result("mixer", "2026-01-02", arena, (tiered,))
    memory.write({"mixer": result}, tmp_path)
    assert memory.read(tmp_path / "memory.json") == {"mixer": result}
    assert "1 of 1 models would need less" in (tmp_path / "memory.md").read_text()
    assert "| 3.000 | 2.000 | 50% |" in (tmp_path / "memory_tiers.md").read_text()
    row = prune_quality.Row("CNN", "p", 9, 0.5, 0.5, 0.9, 0.8, 0.1, 0.02, 0.1, 1.0, "2026-01-02")
    prune_quality.write({row.key: row}, tmp_path)
    assert prune_quality.read(tmp_path / "prune_quality.json") == {row.key: row}
    assert "| +10.00 ± 2.00 |" in (tmp_path / "prune_quality.md").read_text()
