"""The reference on modules with exits: never, always, and everything in between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings

from optc.backends.reference.evaluate import Result, run
from optc.backends.reference.to_torch import to_torch
from optc.backends.reference.trace import trace
from optc.ir.module import ExitIf, Flow, Module, Run
from tests.strategies.exiting import Exiting, exiting

NEVER, ALWAYS = float("inf"), float("-inf")


def names(module: Module) -> list[str]:
    return [step.condition for step in module.flow.exits]


def same(left: Result, right: Result) -> bool:
    return all(torch.equal(left.outputs[n], right.outputs[n]) for n in right.outputs) and all(
        torch.equal(left.states[n], right.states[n]) for n in right.states
    )


def truncated(module: Module, exit: str) -> Module:
    """The model that ends where the exit is: its outputs are what the exit returns."""
    steps = []
    for step in module.flow.steps:
        if isinstance(step, ExitIf) and step.condition == exit:
            pairs = zip(module.outputs, step.results, strict=True)
            renamed = {result: port.name for port, result in pairs}
            outputs = tuple(
                replace(port, name=result)
                for port, result in zip(module.outputs, step.results, strict=True)
            )
            assert renamed
            return replace(module, flow=Flow(tuple(steps)), outputs=outputs)
        if isinstance(step, Run):
            steps.append(step)
    raise AssertionError(exit)


@settings(max_examples=25)
@given(exiting())
def test_never_is_the_model_without_exits(case: Exiting) -> None:
    never = case.at(**dict.fromkeys(names(case.module), NEVER))
    plain = replace(never, flow=Flow(never.flow.runs))
    for x in case.calls:
        found = run(never, {"x": x})
        assert found.exit == ""
        assert same(found, run(plain, {"x": x}))


@settings(max_examples=25)
@given(exiting())
def test_always_is_the_truncated_model(case: Exiting) -> None:
    for index, name in enumerate(names(case.module)):
        before = dict.fromkeys(names(case.module)[:index], NEVER)
        always = case.at(**before, **{name: ALWAYS})
        short = truncated(always, name)
        for x in case.calls:
            found, wanted = run(always, {"x": x}), run(short, {"x": x})
            assert found.exit == name
            rows = zip(found.outputs.values(), [p.name for p in short.outputs], strict=True)
            assert all(torch.equal(mine, wanted.outputs[port]) for mine, port in rows)
            assert all(torch.equal(found.states[n], wanted.states[n]) for n in wanted.states)


@settings(max_examples=25)
@given(exiting())
def test_torch_gives_every_way_out(case: Exiting) -> None:
    net = to_torch(case.module)
    found = net(case.calls[0])
    assert list(found) == [*names(case.module), "end"]
    for index, name in enumerate(names(case.module)):
        before = dict.fromkeys(names(case.module)[:index], NEVER)
        wanted = run(case.at(**before, **{name: ALWAYS}), {"x": case.calls[0]})
        flat = list(found[name].values()) if isinstance(found[name], dict) else list(found[name])
        assert all(map(torch.equal, flat, wanted.outputs.values()))


@settings(max_examples=25)
@given(exiting())
def test_every_stage_is_seen_when_no_exit_is_taken(case: Exiting) -> None:
    always = case.at(**dict.fromkeys(names(case.module), ALWAYS))
    wanted = {value for graph in always.graphs for node in graph.nodes for value in node.outputs}
    seen = set()
    inputs = {"x": case.calls[0].numpy()}
    trace(always, inputs, wanted, lambda value, _: seen.add(value), leave=False)
    assert seen == wanted
    plain = trace(replace(always, flow=Flow(always.flow.runs)), inputs)
    full = trace(always, inputs, leave=False)
    assert all(np.array_equal(full[name], plain[name]) for name in plain)
