"""What measuring passes builds and tells; never how long anything takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optc
from optc.backends.kernel import Job
from optc.bench import Percentiles
from optc.driver import Compiled
from optc.ir.text import parse
from optc.measured_passes import building_once
from optc.passes.fusion.outline import outline
from optc.payoff import Payoff, Verdict
from optc.report.payoff import payoff_rows, payoff_words
from optc.turns import Pair
from tests.optc.test_payoff import WIDE

PASSES = "prune-channels{ratio=0.5},quantize"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    data = {"x": np.random.default_rng(1).standard_normal((400, 64)).astype(np.float32)}
    out = tmp_path_factory.mktemp("measured") / "out"
    return optc.compile(parse(WIDE), out=out, passes=PASSES, data=data, measure_passes=True)


def payoffs(compiled: Compiled) -> list[Payoff]:
    return [record.payoff for record in compiled.passes if record.payoff is not None]


def test_every_lossy_pass_is_between_what_it_got_and_what_it_made(here: Compiled) -> None:
    timings, found = here.timings, payoffs(here)
    assert timings is not None
    assert timings.whole is not None
    assert [item.name for item in found] == ["prune-channels{ratio=0.5}", "quantize"]
    prune, quantize = (item.measured for item in found)
    assert (prune, quantize) == timings.passes
    assert prune is not None
    assert quantize is not None
    assert timings.whole.before == prune.before  # the original is what the first pass got
    assert prune.after == quantize.before
    assert quantize.after != quantize.before
    assert found[0].latency == prune.ratio
    assert timings.calls > 1
    assert timings.whole.after.runs == timings.turns * timings.calls


def test_the_table_and_the_report_say_measured(here: Compiled) -> None:
    for row in payoff_rows(here.passes):
        assert row.latency.endswith(", measured")
    assert "measured side by side" in payoff_words(here.passes, here.timings)
    page = Path(here.path, "report.html").read_text()
    assert "measured side by side" in page
    assert "latency, side by side" in page


def test_another_machine_s_latency_is_modelled_and_the_reason_told(tmp_path: Path) -> None:
    found = optc.compile(
        parse(WIDE), "cortex-a76", out=tmp_path / "out", passes="quantize-weights",
        measure_passes=True,
    )  # fmt: skip
    assert found.timings is not None
    assert found.timings.whole is None
    assert [item.measured for item in payoffs(found)] == [None]
    assert [row.latency.endswith(", modelled") for row in payoff_rows(found.passes)] == [True]
    assert "was compiled for aarch64" in payoff_words(found.passes, found.timings)


@pytest.mark.parametrize(
    ("ratio", "high", "verdict"),
    [
        (0.8, 0.9, Verdict.FASTER),
        (0.98, 1.01, Verdict.SMALLER),  # within the spread: not sure
        (1.2, 1.3, Verdict.SMALLER),
    ],
)
def test_the_verdict_is_the_clock_s(
    here: Compiled, ratio: float, high: float, verdict: Verdict
) -> None:
    once = Percentiles(1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1)
    pair = Pair(once, once, ratio, ratio - 0.01, high)
    (item, _) = payoffs(here)
    assert replace(item, measured=pair).verdict is verdict


def test_kernels_are_built_once_for_all_programs() -> None:
    (graph,) = parse(WIDE).graphs
    jobs = [
        Job(outline(graph, (node,), set(node.outputs)).body, frozenset({1})) for node in graph.nodes
    ]
    asked: list[Job] = []

    def build(wanted: Sequence[Job]) -> list[Any]:
        asked.extend(wanted)
        return [object() for _ in wanted]

    builder = building_once(build)
    first = builder(jobs)
    assert builder(list(reversed(jobs))) == list(reversed(first))
    assert len(set(first)) == len(asked) == len(jobs)
