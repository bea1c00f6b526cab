"""Boundaries on networks whose answer is known."""

from __future__ import annotations

import pytest

from optc.ir.names import value_names
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.early_exit.chain import boundaries

TARGET = find_target("x86-64-v3")
TRANSFORMER = """graph @main(%x: 1x16x64xf32, %mask: 1x16x16xf32) {
  %w = constant {seed=1} : 64x64xf32
  %m = neg(%mask) : 1x16x16xf32
  %q1 = linear(%x, %w) : 1x16x64xf32
  %s1 = mat_mul(%q1, %x) {transpose_b=true} : 1x16x16xf32
  %t1 = add(%s1, %m) : 1x16x16xf32
  %a1 = mat_mul(%t1, %x) : 1x16x64xf32
  %h1 = add(%x, %a1) : 1x16x64xf32
  %q2 = linear(%h1, %w) : 1x16x64xf32
  %s2 = mat_mul(%q2, %h1) {transpose_b=true} : 1x16x16xf32
  %t2 = add(%s2, %m) : 1x16x16xf32
  %a2 = mat_mul(%t2, %h1) : 1x16x64xf32
  %h2 = add(%h1, %a2) : 1x16x64xf32
  %y = linear(%h2, %w) : 1x16x64xf32
  return %y
}
"""
CHAIN = """graph @main(%x: 1x64x16x16xf32) {
  %w = constant {seed=1} : 64x64x3x3xf32
  %a = conv(%x, %w) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)} : 1x64x16x16xf32
  %b = relu(%a) : 1x64x16x16xf32
  %c = conv(%b, %w) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)} : 1x64x16x16xf32
  %d = relu(%c) : 1x64x16x16xf32
  %e = conv(%d, %w) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)} : 1x64x16x16xf32
  return %e
}
"""


def found(text: str) -> dict[str, float]:
    (graph,) = parse(text).graphs
    names = value_names(graph)
    places = boundaries(graph, graph.outputs[0], TARGET)
    return {names[place.value]: place.saved for place in places}


def test_residual_stages_are_boundaries_and_a_mask_may_bypass_them() -> None:
    places = found(TRANSFORMER)
    assert list(places) == ["h1", "h2"]
    assert places["h1"] == pytest.approx(0.55, abs=0.1)
    assert places["h1"] > places["h2"]


def test_of_values_with_the_same_work_the_last_counts() -> None:
    places = found(CHAIN)
    assert list(places) == ["b", "d"]
    assert places["b"] == pytest.approx(2 / 3, abs=0.05)
    assert places["d"] == pytest.approx(1 / 3, abs=0.05)


def test_parallel_branches_have_none_between_them() -> None:
    text = CHAIN.replace("conv(%d, %w)", "conv(%b, %w)").replace(
        "  return %e", "  %f = add(%d, %e) : 1x64x16x16xf32\n  return %f"
    )
    assert list(found(text)) == ["b"]
