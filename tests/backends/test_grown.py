"""Weights that grow for speed: counted to the byte, named by layer, none where size is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import optc
from optc.backends.tvm.templates.plan import Problem
from optc.backends.tvm.templates.winograd import Winograd, WinogradPlan
from optc.driver import Options
from optc.inspect import inspect_module
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.pipeline import Pipeline
from optc.report.summary import size_rows

TEXT = """graph @main(%x: 1x32x28x28xf32) {
  %w = constant {seed=1} : 48x32x3x3xf32
  %v = constant {seed=2} : 32x48x3x3xf32
  %u = constant {seed=3} : 16x32x1x1xf32
  %a = conv(%x, %w) {padding=((1, 1), (1, 1))} : 1x48x28x28xf32 @ "m.py":3 in "first"
  %r = relu(%a) : 1x48x28x28xf32
  %b = conv(%r, %v) {padding=((1, 1), (1, 1))} : 1x32x28x28xf32 @ "m.py":4 in "second"
  %y = conv(%b, %u) : 1x16x28x28xf32
  return %y
}"""
MODULE = parse(TEXT)


def test_what_grew_is_counted_and_named(tmp_path: Path) -> None:
    made = optc.compile(MODULE, "x86-64-v3", out=tmp_path / "on")
    plain = optc.compile(MODULE, "x86-64-v3:winograd=off", out=tmp_path / "off")
    found = [item for item in made.diagnostics if item.code == "N0540"]
    assert [(item.loc.line, item.message.split(":")[0]) for item in found] == [
        (3, "conv w"),
        (4, "conv v"),
    ]
    assert all("winograd=off" in item.message for item in found)
    grown = int(made.manifest["metadata"]["winograd_bytes"])
    assert grown == made.manifest["stored_bytes"] - plain.manifest["stored_bytes"] > 0
    assert "winograd_bytes" not in plain.manifest["metadata"]
    assert not [item for item in plain.diagnostics if item.code == "N0540"]
    for name, told in (("on", True), ("off", False)):
        page = (tmp_path / name / "report.html").read_text()
        assert ("of it by Winograd" in page) is told


def test_the_table_says_so() -> None:
    facts = inspect_module(MODULE)
    sizes = dict.fromkeys(("arena_bytes", "stored_bytes", "state_bytes", "peak_bytes"), 1000)
    for more, words in (({}, "1.00 kB"), ({"winograd_bytes": 900}, "900 B of it by Winograd")):
        rows = {row.label: row.after for row in size_rows(facts, facts, {**sizes, **more})}
        assert words in rows["weights"]


@pytest.mark.parametrize(
    ("passes", "memory", "exact", "taken"),
    [
        ("", None, False, True),
        ("quantize-weights", None, False, True),
        ("assign-precision", None, False, True),
        ("fold-pad,assign-precision{objective=size}", None, False, False),
        ("", 10**9, False, False),
        ("", None, True, False),
    ],
)
def test_who_asks_for_size_gets_direct_convolutions(
    passes: str, memory: int | None, exact: bool, taken: bool
) -> None:
    options = Options(Pipeline.parse(passes), exact, memory=memory)
    assert options.machine(find_target("x86-64-v3")).winograd is taken


def plan_of(size: int, channels: int, target: str) -> WinogradPlan:
    text = f"""graph @main(%x: 1x{size}x{size}x{channels}xf32) {{
  %w = constant {{seed=1}} : {channels}x{channels}x3x3xf32
  %y = conv(%x, %w) {{padding=((1, 1), (1, 1)), channels_last=true}} : {
        "x".join(map(str, (1, size, size, channels)))
    }xf32
  return %y
}}"""
    (graph,) = parse(text).graphs
    weight = graph.nodes[0].inputs[1]
    body = replace(graph, inputs=(*graph.inputs, weight), constants={})
    plan = Winograd().match(Problem(body, frozenset({1}), find_target(target)))
    assert isinstance(plan, WinogradPlan)
    return plan


@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64-v3", "cortex-a76"])
@pytest.mark.parametrize("layer", [(14, 512), (14, 256), (56, 64)])
def test_half_the_bytes_are_worth_a_little_time(target: str, layer: tuple[int, int]) -> None:
    """Against the fastest setting: never much slower, and smaller wherever it is slower."""
    plan = plan_of(*layer, target)
    fastest = min(plan.settings, key=plan.cycles)
    chosen = plan.settings[0]
    points = [(knobs.height + 2) * (knobs.width + 2) for knobs in (chosen, fastest)]
    assert plan.cycles(chosen) <= plan.cycles(fastest) + 0.12 * plan.direct_cycles
    if plan.cycles(chosen) > plan.cycles(fastest):
        assert points[0] < points[1]
    if target == "cortex-a76" and layer == (14, 512):
        assert points == [24, 36]
