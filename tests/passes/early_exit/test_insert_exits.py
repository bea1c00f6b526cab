"""insert-exits on a trained net: what it promises, what it refuses, and the artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import optc
from optc.backends.reference.evaluate import run
from optc.contexts import pass_context
from optc.ir.diagnostics import OptcError
from optc.ir.module import Module
from optc.ir.printer import print_module
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.ir.verify import verify
from optc.passes.base import PassContext, run_passes
from optc.passes.early_exit.decision import Decision
from optc.passes.early_exit.insert_exits import InsertExits
from optc.passes.quality import Verdict
from optc.quality.evidence import DataRequest, Evidence
from tests.passes.early_exit.networks import captured, digits
from tests.strategies.exiting import with_thresholds

BUDGET = 0.1
NEVER, ALWAYS = float("inf"), float("-inf")
STRICT = 0.9  # a threshold that some of the digits reach, and some do not


def context(module: Module, metric: str = "", budget: float | None = BUDGET, **data: Any):  # type: ignore[no-untyped-def]
    given = {**digits()[1], **data}
    evidence = Evidence(module, DataRequest(given, None, metric or None, budget))
    return pass_context(find_target("x86-64-v3"), evidence=evidence)


def inserted(module: Module, ctx: PassContext, **options: Any) -> Module:
    return run_passes(module, (InsertExits(**options),), ctx)


def outputs(module: Module, x: np.ndarray) -> tuple[str, np.ndarray]:
    with torch.no_grad():
        found = run(module, {"x": torch.from_numpy(x)})
    return found.exit, next(iter(found.outputs.values())).numpy()


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("decision", Decision)
def test_exits_hold_the_budget_and_can_be_turned_off(own: bool, decision: Decision) -> None:
    module = captured(own=own)
    # Few samples, and energies that say less than probabilities here: a larger budget for them.
    budget = 0.3 if decision is Decision.ENERGY else BUDGET
    ctx = context(module, "accuracy@output.2" if own else "", budget)
    found = inserted(module, ctx, decision=decision)
    assert found.flow.exits, ctx.diagnostics
    assert verify(found) == ()
    difference = ctx.needed_judge("test").compare(found)
    assert difference.verdict(budget) is not Verdict.BROKEN
    (plan,) = ctx.exits
    assert plan.cost < 1
    assert sum(e.share for e in plan.exits) + plan.end_share == pytest.approx(1)
    assert [e.name for e in plan.exits] == [step.condition for step in found.flow.exits]
    names = [step.condition for step in found.flow.exits]
    never = with_thresholds(found, dict.fromkeys(names, NEVER))
    always = with_thresholds(found, dict.fromkeys(names, ALWAYS))
    samples = digits()[1]["x"][:40, None]
    for x in samples:
        with torch.no_grad():
            wanted = run(module, {"x": torch.from_numpy(x)}).outputs
        taken, answer = outputs(never, x)
        assert taken == ""
        assert np.array_equal(answer, list(wanted.values())[-1].numpy())
        assert outputs(always, x)[0] == names[0]
    assert {outputs(found, x)[0] for x in samples} - {""}


def test_own_heads_answer_what_they_answered() -> None:
    module = captured(own=True)
    found = inserted(module, context(module, "accuracy@output.2"))
    assert [port.name for port in found.outputs] == ["output.2"]
    net, data = digits()
    names = [step.condition for step in found.flow.exits]
    for index, name in enumerate(names):
        others = dict.fromkeys(names[:index], NEVER)
        always = with_thresholds(found, {**others, name: ALWAYS})
        x = data["x"][:1]
        with torch.no_grad():
            heads = [head.numpy() for head in net(torch.from_numpy(x))]
        answer = outputs(always, x)[1]
        assert any(np.allclose(answer, head, atol=1e-5) for head in heads[:-1])


def test_a_call_of_several_rows_leaves_where_all_are_sure() -> None:
    module = captured(own=True, rows=4)
    found = inserted(module, context(module, "accuracy@output.2", budget=0.2))
    (name, *_) = (step.condition for step in found.flow.exits)
    never = {step.condition: NEVER for step in found.flow.exits}
    data = digits()[1]["x"]
    found, taken = with_thresholds(found, {**never, name: 0.9}), []
    for start in range(0, 80, 4):
        rows = data[start : start + 4]
        scores = _confidence(found, rows)
        taken.append((outputs(found, rows)[0] == name, bool((scores >= 0.9).all())))
    assert [left for left, _ in taken] == [sure for _, sure in taken]
    assert len({left for left, _ in taken}) == 2


def _confidence(module: Module, rows: np.ndarray) -> np.ndarray:
    """The largest probability of each row at the first exit, as its temperature makes it."""
    always = with_thresholds(module, {s.condition: ALWAYS for s in module.flow.exits})
    logits = outputs(always, rows)[1].astype(np.float64)
    (graph, *_) = module.graphs
    cooler = [c for v, c in graph.constants.items() if v.hint == "cooler"]
    x = logits * (float(cooler[0].splat) if cooler else 1.0)
    x = np.exp(x - x.max(1, keepdims=True))
    return (x / x.sum(1, keepdims=True)).max(1)


def test_the_artifact_decides_as_the_reference_does_and_counts(tmp_path: Path) -> None:
    module = captured(own=False)
    built = optc.compile(
        module,
        "host",
        out=tmp_path / "out",
        passes="insert-exits{n=1}",
        data=digits()[1],
        accuracy_drop=BUDGET,
    )
    (exit,) = built.module.flow.exits
    seen = {"": 0, exit.condition: 0}
    with optc.load(built.path) as artifact:
        assert artifact.exits == (exit.condition,)
        (threshold,) = artifact.parameters.values()
        assert 0 < threshold < 1
        # The budget may well let all calls leave; here both ways are to be seen.
        artifact.set_parameter(f"{exit.condition}.threshold", STRICT)
        strict = with_thresholds(built.module, {exit.condition: STRICT})
        for x in digits()[1]["x"][:150, None]:
            taken, answer = outputs(strict, x)
            before = artifact.exit_runs()[exit.condition]
            assert np.allclose(artifact(x), answer, atol=1e-4)
            assert artifact.exit_runs()[exit.condition] - before == (taken == exit.condition)
            seen[taken] += 1
        assert min(seen.values()) > 0
        runs = artifact.segment_runs()
        assert runs["stage_0"] == 150
        assert runs["stage_1"] == seen[""]
        artifact.set_parameter(f"{exit.condition}.threshold", NEVER)
        artifact.reset()  # which leaves parameters alone
        x = digits()[1]["x"][:1]
        answer = outputs(module, x)[1]
        assert np.allclose(artifact(x), answer, atol=1e-4)
        assert artifact.exit_runs()[exit.condition] == seen[exit.condition]
    assert built.quality is not None
    assert built.quality.exits["end"] + built.quality.exits[exit.condition] > 0


def test_a_head_that_takes_what_it_saves_is_told_from_a_budget_that_breaks() -> None:
    """Behind the last block only the last head is left, and a decision comes on top."""
    module = captured(own=False)
    ctx = context(module)
    assert inserted(module, ctx, at=("relu_2",)) is module
    remarks = {item.code: item.message for item in ctx.diagnostics}
    assert set(remarks) == {"N0341", "N0343"}
    assert remarks["N0341"].endswith("its head takes what it saves")
    assert "10.00% holds" in remarks["N0343"]


def test_exact_drops_the_pass() -> None:
    module = captured(own=False)
    ctx = replace(context(module), exact=True)
    assert run_passes(module, (InsertExits(),), ctx) is module


def test_it_prints_parses_and_leaves_its_own_result_alone() -> None:
    module = captured(own=False)
    ctx = context(module)
    found = inserted(module, ctx)
    assert inserted(found, ctx) is found
    text = print_module(found)
    weights = {c.digest: c.array for g in found.graphs for c in g.constants.values()}
    assert print_module(parse(text, weights=weights)) == text


@pytest.mark.parametrize(
    ("options", "metric", "code", "words"),
    [
        ({"n": 20}, "", "E0760", "20 exits are asked for, the model has 3 places"),
        ({"n": 0}, "", "E0760", "asks for nothing"),
        ({"at": ("rleu",)}, "", "E0763", "no value is called rleu; the nearest are relu"),
        ({}, "cosine", "E0745", "no mean of right answers"),
    ],
)
def test_bad_options_are_the_users_error(
    options: dict[str, Any], metric: str, code: str, words: str
) -> None:
    module = captured(own=False)
    labels = {} if metric != "cosine" else {"labels": np.eye(10)[digits()[1]["labels"]]}
    ctx = context(module, metric, **{k: v.astype(np.float32) for k, v in labels.items()})
    with pytest.raises(OptcError) as caught:
        inserted(module, ctx, **options)
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert words in found.message


def test_the_metric_must_be_of_the_last_head() -> None:
    module = captured(own=True)
    with pytest.raises(OptcError, match="E0761"):
        inserted(module, context(module, "accuracy@output.0"))


def test_too_few_samples_say_how_many_it_takes() -> None:
    module = captured(own=False)
    with pytest.raises(OptcError, match="E0764") as caught:
        inserted(module, context(module, budget=0.001))
    assert "give --data at least" in caught.value.diagnostics[0].help


def test_scores_that_are_not_numbers_are_found() -> None:
    module = captured(own=True)
    wrong = digits()[1]["x"].copy()
    wrong[:, 0] = np.nan
    with pytest.raises(OptcError, match="E0765"):
        inserted(module, context(module, "accuracy@output.2", x=wrong))


def test_a_model_without_class_scores_is_refused() -> None:
    text = "graph @main(%x: 1x4xf32) {\n  %y = reduce_sum(%x) {axes=(1,)} : 1xf32\n  return %y\n}\n"
    module = parse(text)
    data = {"x": np.zeros((50, 4), np.float32)}
    evidence = Evidence(module, DataRequest(data, None, None, None))
    ctx = pass_context(find_target("x86-64-v3"), evidence=evidence)
    with pytest.raises(OptcError, match="E0762"):
        inserted(module, ctx)


def test_without_data_it_says_what_it_needs() -> None:
    with pytest.raises(OptcError, match="E0134"):
        inserted(captured(own=False), pass_context(find_target("x86-64-v3")))
