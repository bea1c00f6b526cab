"""Flows with exits: text, verifier, digest, store; and the walk that all readers share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from optc.ir.flow import follow, ways_out
from optc.ir.graph import Graph
from optc.ir.module import ExitIf, Flow, Module
from optc.ir.printer import print_module
from optc.ir.store import load, save
from optc.ir.structural import module_diff, module_digest
from optc.ir.text import parse
from optc.ir.verify import verify
from tests.strategies.exiting import Exiting, exiting

TEXT = """module @m {
  input x : 2xf32
  output y : 2xf32
  output n : 2xf32
  state seen : 2xf32
  state exit_0.threshold = {splat=0.5} : f32
  flow {
    exit_0, early, h, seen = run @first(x, seen, exit_0.threshold)
    exit_if exit_0 return early, h
    y, n = run @second(h)
  }
  graph @first(%x: 2xf32, %seen: 2xf32, %t: f32) {
    %m = reduce_max(%x) {axes=(0,)} : f32
    %c = greater_equal(%m, %t) : bool
    %s = add(%seen, %x) : 2xf32
    %h = relu(%x) : 2xf32
    return %c, %x, %h, %s
  }
  graph @second(%h: 2xf32) {
    %y = neg(%h) : 2xf32
    return %y, %h
  }
}
""".replace("state seen :", "state seen = {splat=0.0} :")


@settings(max_examples=25)
@given(exiting())
def test_text_digest_and_store(case: Exiting) -> None:
    text = print_module(case.module)
    assert verify(case.module) == ()
    again = parse(text, weights=_weights(case.module))
    assert print_module(again) == text
    assert module_digest(again) == module_digest(case.module)


def _weights(module: Module):  # type: ignore[no-untyped-def]
    constants = [c for graph in module.graphs for c in graph.constants.values()]
    constants += [state.initial for state in module.states]
    return {item.digest: item.array for item in constants if item.splat is None}


def test_a_module_with_exits_is_stored(tmp_path: Path) -> None:
    module = parse(TEXT)
    save(module, tmp_path / "m.optc")
    assert module_diff(load(tmp_path / "m.optc"), module) == ""


def test_what_exits_say_counts_in_the_digest() -> None:
    texts = (
        TEXT,
        TEXT.replace("return early, h\n", "return h, early\n"),
        TEXT.replace("    exit_if exit_0 return early, h\n", ""),
        TEXT.replace("splat=0.5", "splat=0.6"),
    )
    assert len({module_digest(parse(text)) for text in texts}) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("exit_if nobody return early, h", "nobody is not defined"),
        ("exit_if early return early, h", "exit_if takes one bool, early is 2xf32"),
        ("exit_if exit_0 return early", "returns 1 of 2 outputs"),
        ("exit_if exit_0 return early, y", "n is 2xf32, exit exit_0 gives nothing"),
        ("exit_if exit_0 return exit_0, h", "y is 2xf32, exit exit_0 gives bool"),
    ],
)
def test_the_verifier_names_what_is_wrong(line: str, message: str) -> None:
    module = parse(TEXT.replace("exit_if exit_0 return early, h", line))
    assert any(found.code == "E0125" and message in found.message for found in verify(module))


def test_a_state_of_another_type_at_an_exit_is_found() -> None:
    module = parse(TEXT.replace("early, h, seen = run", "early, seen, h = run"))
    assert verify(module) == ()  # the types are alike
    wrong = parse(TEXT.replace("exit_0, early, h, seen = run", "seen, early, h, exit_0 = run"))
    assert any("seen is 2xf32, exit exit_0 gives bool" in found.message for found in verify(wrong))


def test_states_that_are_only_read_are_parameters() -> None:
    module = parse(TEXT)
    assert [state.name for state in module.parameters] == ["exit_0.threshold"]
    assert [step.condition for step in module.flow.exits] == ["exit_0"]


def test_an_exit_may_return_nothing_and_be_the_last_step() -> None:
    text = """module @m {
  input x : bool
  flow {
    exit_if x return
     = run @nothing(x)
    exit_if x return
  }
  graph @nothing(%x: bool) {
    return
  }
}
"""
    module = parse(text)
    assert module.flow.exits == (ExitIf("x", ()), ExitIf("x", ()))
    assert print_module(parse(print_module(module))) == print_module(module)


def test_stages_behind_a_way_out_are_not_run() -> None:
    module, ran = parse(TEXT), []

    def count(graph: Graph, given: list[object]) -> list[object]:
        ran.append(graph.name)
        return [True, "early", "h", "seen"] if graph.name == "first" else ["y", "n"]

    given = dict.fromkeys(("x", "seen", "exit_0.threshold"), object())
    way = follow(module, given, count)
    assert (way.name, dict(way.outputs), ran) == ("exit_0", {"y": "early", "n": "h"}, ["first"])
    assert way.states["seen"] == "seen"
    assert follow(module, given, count, leave=False).outputs == {"y": "y", "n": "n"}
    assert [way.name for way in ways_out(module, given, count)] == ["exit_0", ""]


def test_a_flow_without_exits_digests_as_it_did() -> None:
    module = parse(TEXT)
    plain = replace(module, flow=Flow(module.flow.runs))
    assert module_digest(plain) == module_digest(replace(plain, flow=Flow(tuple(plain.flow.runs))))
    assert module_digest(plain) != module_digest(module)
