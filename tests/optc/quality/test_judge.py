"""The judge: candidates on the same samples as the original, which runs once a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optc.data.dataset import Dataset, open_dataset
from optc.ir.diagnostics import OptcError
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.base import PassContext
from optc.passes.quality import Part, Verdict
from optc.quality.choose import choose_metric
from optc.quality.evidence import DataRequest, Evidence
from optc.quality.judge import DataJudge, evaluate
from optc.quality.runners import ports_of, reference

TEXT = """module @m {
  input x : 4x6xf32
  output y : 4x3xf32
  flow {
    y = run @main(x)
  }
  graph @main(%x: 4x6xf32) {
    %w = constant {seed=1} : 3x6xf32
    %y = linear(%x, %w) : 4x3xf32
    return %y
  }
}"""
MODULE = parse(TEXT)
OTHER = parse(TEXT.replace("seed=1", "seed=2"))


def arrays(count: int = 101) -> dict[str, NDArray[Any]]:
    """Inputs, and as labels what the original says."""
    x = np.random.default_rng(0).standard_normal((count, 6)).astype(np.float32)
    (w,) = (item.array for item in MODULE.graphs[0].constants.values())
    return {"x": x, "labels": (x @ w.T).argmax(1)}


def dataset(labelled: bool) -> Dataset:
    given = arrays() if labelled else {"x": arrays()["x"]}
    return open_dataset(given, ports_of(MODULE.inputs))


def judge(labelled: bool, metric: str | None = None) -> tuple[DataJudge, list[int]]:
    """A judge of the model, and the sizes of the calls that the original made."""
    data, calls = dataset(labelled), []
    run = reference(MODULE)

    def counted(
        given: Iterable[Mapping[str, NDArray[Any]]],
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        def noted() -> Iterator[Mapping[str, NDArray[Any]]]:
            for inputs in given:
                calls.append(len(inputs["x"]))
                yield inputs

        return run(noted())

    labels = np.zeros(1, np.int64) if labelled else None
    rule = choose_metric(metric, ports_of(MODULE.outputs), data.batch, labels)
    return DataJudge(counted, data, rule, 0.01), calls


@pytest.mark.parametrize("labelled", [True, False])
def test_a_candidate_is_judged_on_the_held_out_part(labelled: bool) -> None:
    found, calls = judge(labelled)
    worse = found.compare(OTHER)
    held_out = dataset(labelled).facts.held_out
    answers = [
        tuple(
            next(reference(m)([batch.inputs]))["y"].argmax(1)[: batch.valid]
            for m in (MODULE, OTHER)
        )
        for batch in dataset(labelled).part(Part.HELD_OUT)
    ]
    truth, own = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    assert worse.before.value == 1
    assert worse.after.samples == held_out
    assert worse.after.value == pytest.approx((truth == own).mean())
    assert worse.verdict(0.01) is Verdict.BROKEN
    assert len(calls) == -(-held_out // 4)
    assert found.quality(MODULE).value == 1
    assert found.compare(MODULE).drop == 0
    assert len(calls) == -(-held_out // 4), "the original ran again"
    assert found.quality(MODULE, Part.CALIBRATION).samples == dataset(labelled).facts.calibration


def test_evaluation_without_an_original() -> None:
    rule = choose_metric(None, ports_of(MODULE.outputs), 4, np.zeros(1, np.int64))
    steps: list[tuple[int, int]] = []
    parts = dataset(True).part(Part.ALL)
    found = evaluate(reference(OTHER), parts, rule, lambda *state: steps.append(state))
    assert found.samples == 101
    assert steps[-1] == (101, 101)


def evidence(**asked: Any) -> Evidence:
    return Evidence(MODULE, DataRequest(arrays(), **asked))


def test_passes_are_given_what_they_may_see() -> None:
    found = evidence(budget=0.02)
    context = PassContext(
        find_target("x86-64-v3"), calibration=found.calibration, judge=found.judge
    )
    output = MODULE.graphs[0].outputs[0]
    statistics = context.needed_calibration("a pass").statistics(MODULE, [output])
    assert statistics[output].elements[0] == 3 * 4 * found.calibration.batches.calls
    assert context.needed_judge("a pass").quality(OTHER).value < 1
    assert context.needed_judge("a pass").budget == 0.02


def test_a_pass_without_data_says_what_to_type() -> None:
    context = PassContext(find_target("x86-64-v3"))
    for ask in (context.needed_calibration, context.needed_judge):
        with pytest.raises(OptcError, match="prune-channels") as caught:
            ask("prune-channels")
        (finding,) = caught.value.diagnostics
        assert (finding.code, finding.help) == ("E0134", "--data calib.npz")


def test_the_last_word_names_who_ran_it() -> None:
    held = evidence(budget=0.2).measure_module(MODULE, "no library")
    assert held.finding is None
    assert "no library" in held.ran
    broken = evidence(budget=0.01).measure_module(OTHER, "no library")
    assert broken.finding is not None
    assert broken.finding.code == "E0747"
    few = Evidence(MODULE, DataRequest(arrays(20), budget=0.01))
    unsure = few.measure_module(MODULE, "no library")
    assert unsure.finding is not None
    assert (unsure.finding.code, unsure.verdict) == ("W0748", Verdict.OPEN)
    assert evidence().measure_module(OTHER, "no library").verdict is None


def test_a_budget_needs_a_metric_with_a_scale() -> None:
    with pytest.raises(OptcError, match="cosine"):
        Evidence(MODULE, DataRequest({"x": arrays()["x"]}, metric="mse", budget=0.01))


def test_states_start_anew_with_every_call() -> None:
    module = parse(
        """module @sum {
  input x : 2x3xf32
  output y : 2x3xf32
  state s = {splat=0.0} : 2x3xf32
  flow {
    y, s = run @main(x, s)
  }
  graph @main(%x: 2x3xf32, %s: 2x3xf32) {
    %y = add(%x, %s) : 2x3xf32
    return %y, %y
  }
}"""
    )
    run = reference(module)
    x = np.ones((2, 3), np.float32)
    assert all(np.array_equal(found["y"], x) for found in run([{"x": x}] * 3))
