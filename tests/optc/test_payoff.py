"""Which passes paid: faster, smaller, closer to the original, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from optc.driver import Options, compile_module
from optc.ir.constant import constant, to_floats
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from optc.ir.text import parse
from optc.observers import PassTimes
from optc.passes.base import Effect, Pass, PassContext, run_passes
from optc.passes.early_exit.decision import Decision
from optc.passes.early_exit.plan import ExitPlan, Point
from optc.passes.early_exit.route import Route, routed
from optc.passes.early_exit.route_to import RouteTo
from optc.passes.pipeline import Pipeline
from optc.passes.standard import LOWER
from optc.payoff import CALLS, Payoff, Payoffs, Verdict, modelled_seconds, nominal, spread
from optc.quality.evidence import DataRequest, Evidence
from optc.report.payoff import payoff_rows, payoff_words

TARGET = find_target("x86-64-v3")
WIDE = """graph @main(%x: 8x64xf32) {
  %w = constant {seed=1} : 256x64xf32
  %v = constant {seed=2} : 10x256xf32
  %a = linear(%x, %w) : 8x256xf32
  %r = relu(%a) : 8x256xf32
  %y = linear(%r, %v) : 8x10xf32
  return %y
}
"""


@dataclass(frozen=True)
class AddNoise(Pass):
    """Makes a model worse and nothing better."""

    name = "add-noise"
    effect = Effect.LOSSY

    def run(self, module: Module, ctx: PassContext) -> Module:
        (graph,) = module.graphs
        draw = np.random.default_rng(0)
        noisy = {
            value: constant(to_floats(item) + draw.standard_normal(value.shape).astype(np.float32))
            for value, item in graph.constants.items()
        }
        return module.with_graphs((replace(graph, constants=noisy),))


def measured(passes: tuple[Pass, ...], target: Target = TARGET) -> list[Payoff]:
    module = parse(WIDE)
    data = {"x": np.random.default_rng(1).standard_normal((400, 64)).astype(np.float32)}
    evidence = Evidence(module, DataRequest(data))
    context = PassContext(target, calibration=evidence.calibration, judge=evidence.judge)
    times = PassTimes(Payoffs(target, evidence.judge))
    run_passes(module, passes, context, (times,))
    found = [record.payoff for record in times.records if record.payoff is not None]
    words = payoff_words(times.records)
    if found:
        idle = AddNoise() in passes
        assert words.startswith("did not pay: add-noise" if idle else "every lossy pass paid")
    assert [row.name for row in payoff_rows(times.records)] == [item.name for item in found]
    return found


def test_a_pass_that_makes_things_worse_did_not_pay() -> None:
    prune = Pipeline.parse("prune-channels{ratio=0.5},reconstruct-weights").passes
    cut, fit, noise = measured((*prune, AddNoise()))
    assert [item.verdict for item in (cut, fit, noise)] == [
        Verdict.FASTER,
        Verdict.BETTER,
        Verdict.NOTHING,
    ]
    assert cut.after.macs == cut.before.macs / 2
    assert cut.latency < 0.7
    assert cut.drop is not None
    assert fit.drop is not None
    assert noise.drop is not None
    assert fit.drop < 0 < cut.drop
    assert noise.drop > 0
    assert fit.before is cut.after  # judged once


def test_exits_pay_by_the_mean_work_of_a_call() -> None:
    """The whole graph grows by a head; what counts is where calls leave."""
    small, large = parse(WIDE), parse(WIDE)
    behind = replace(large, name="large")
    after = routed(small, behind, Route(small.outputs[0].name))
    none = ExitPlan(Decision.ENERGY, "agreement", 0.01, 0.05, "", 1, "", (), 1.0, 1.1, ())
    for cost, verdict in ((0.4, Verdict.FASTER), (1.2, Verdict.NOTHING)):
        plan = replace(none, curve=(Point(cost, 0.0, chosen=True),))
        found = Payoffs(TARGET, plans=[plan]).of(RouteTo(large), small, after)
        assert found is not None
        assert found.latency == cost
        assert found.verdict is verdict


def test_exact_passes_are_not_judged() -> None:
    assert measured(Pipeline.parse("canonicalize").passes) == []


def test_a_machine_is_modelled_by_its_vectors_and_cores() -> None:
    module = parse(WIDE)
    wide, narrow = nominal(find_target("x86-64-v4")), nominal(find_target("x86-64-v3"))
    assert wide.flops == 2 * narrow.flops
    assert nominal(replace(TARGET, cores=4)).flops == 4 * nominal(replace(TARGET, cores=1)).flops
    slow, fast = (modelled_seconds(module, replace(TARGET, cores=n)) for n in (1, 2))
    assert 0 < fast < slow


@pytest.mark.parametrize("calls", [0, 1, CALLS, CALLS + 1, 1000])
def test_batches_are_spread_and_bounded(calls: int) -> None:
    chosen = spread(calls)
    assert (chosen is None) == (calls <= CALLS)
    assert chosen is None or (len(chosen) <= CALLS and max(chosen) < calls)


def test_the_report_says_it_and_is_the_same_again(tmp_path: Path) -> None:
    data = {"x": np.random.default_rng(1).standard_normal((200, 64)).astype(np.float32)}
    pages = []
    for number in range(2):
        options = Options(
            Pipeline.parse("prune-channels{ratio=0.5},reconstruct-weights"),
            data=DataRequest(data),
        )
        out = tmp_path / str(number)
        compiled = compile_module(parse(WIDE), TARGET, out, options)
        assert sum(record.payoff is not None for record in compiled.passes) == 2
        pages.append((out / "report.html").read_text())
    assert "Did each pass pay?" in pages[0]
    assert "paid: closer to the original" in pages[0]
    assert pages[0] == pages[1]


def test_weights_in_few_bits_are_read_as_they_are_stored() -> None:
    text = """graph @main(%x: 1x4096xf32) {
  %w = constant {seed=1} : 4096x4096xf32
  %y = linear(%x, %w) : 1x4096xf32
  return %y
}"""
    module = parse(text)
    stored = Pipeline.parse("quantize-weights{bits=8}").run(module, PassContext(TARGET))
    assert modelled_seconds(stored, TARGET) < 0.3 * modelled_seconds(module, TARGET)


def test_what_is_quantized_is_priced_as_the_integers_that_it_becomes() -> None:
    (found,) = measured((*Pipeline.parse("quantize").passes, *LOWER), find_target("cortex-a76"))
    assert found.name == "quantize"
    assert found.after.weight_bytes < found.before.weight_bytes / 3
    assert found.latency < 0.9
