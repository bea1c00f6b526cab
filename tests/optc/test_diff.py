"""The culprit is found: the right node, in bounded memory, and no false accusation."""

from __future__ import annotations

import numpy as np
import pytest

from optc.backends.reference.trace import trace
from optc.diff import compare_outputs, first_bad, locate, measure
from optc.ir.dtype import DType
from optc.ir.module import Module
from optc.ir.text import parse

CHAIN = """graph @main(%x: 4x8xf32) {
  %w = constant {seed=1} : 8x8xf32
  %a = linear(%x, %w) : 4x8xf32 @ "m.py":1
  %b = relu(%a) : 4x8xf32 @ "m.py":2
  %c = tanh(%b) : 4x8xf32 @ "m.py":3
  %d = linear(%c, %w) : 4x8xf32 @ "m.py":4
  %e = softmax(%d) {axis=1} : 4x8xf32 @ "m.py":5
  return %e, %b
}"""
X = {"x": np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)}


def other(old: str, new: str) -> Module:
    assert old in CHAIN
    return parse(CHAIN.replace(old, new))


@pytest.mark.parametrize(
    "budget", [1, 200, 1 << 30], ids=["a value a round", "some", "all at once"]
)
@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("= relu(%a)", "= abs(%a)", 2),
        ("= tanh(%b)", "= sigmoid(%b)", 3),
        ("{axis=1}", "{axis=0}", 5),
    ],
)
def test_the_first_wrong_node_is_named(old: str, new: str, line: int, budget: int) -> None:
    culprit = locate(parse(CHAIN), other(old, new), X, budget=budget)
    assert culprit is not None
    assert culprit.node.loc.line == line
    assert not culprit.gap.ok
    assert culprit.suspects == ()


def test_equal_graphs_have_no_culprit() -> None:
    assert locate(parse(CHAIN), parse(CHAIN), X) is None


def test_new_nodes_before_the_wrong_one_are_suspects() -> None:
    split = other(
        '%c = tanh(%b) : 4x8xf32 @ "m.py":3',
        '%s = sigmoid(%b) : 4x8xf32 @ "m.py":3\n  %c = sin(%s) : 4x8xf32 @ "m.py":3',
    )
    culprit = locate(parse(CHAIN), split, X)
    assert culprit is not None
    assert [node.op.name for node in culprit.suspects] == ["sigmoid"]
    assert culprit.node.op.name == "sin"
    assert "sigmoid" in culprit.excerpt


def test_a_wrong_pairing_accuses_nobody() -> None:
    """%c is another value in the second graph, and all that is computed from it is right."""
    renamed = parse(
        "\n".join(
            line.replace("linear(%c, %w)", "linear(%r, %w)")
            for line in CHAIN.replace(
                '%c = tanh(%b) : 4x8xf32 @ "m.py":3',
                '%q = tanh(%b) : 4x8xf32\n  %c = neg(%q) : 4x8xf32 @ "m.py":3\n'
                "  %r = neg(%c) : 4x8xf32",
            ).splitlines()
        )
    )
    assert locate(parse(CHAIN), renamed, X) is None


@pytest.mark.parametrize("bad", [0, 1, 2, 5, 6, None])
def test_bisection_finds_the_first_bad_stage(bad: int | None) -> None:
    wrong = other("= tanh(%b)", "= sigmoid(%b)")
    modules = [parse(CHAIN) if bad is None or index < bad else wrong for index in range(7)]
    assert first_bad(modules, trace(parse(CHAIN), X), X) == bad


def test_bisection_of_nothing_finds_nothing() -> None:
    assert first_bad([], {}, X) is None


def test_a_gap_is_a_share_of_the_range() -> None:
    right = np.array([0.0, 10.0], dtype=np.float32)
    gap = measure("y", right, right + np.float32(0.001), DType.F32)
    assert gap.error == pytest.approx(1e-4, rel=1e-2)
    assert measure("y", right, right + np.float32(0.0005), DType.F32).ok
    assert not measure("y", right, right + np.float32(0.01), DType.F32).ok
    assert measure("y", right, right + np.float32(0.01), DType.F32, scale=100).ok


@pytest.mark.parametrize(
    ("right", "found", "ok"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], True),
        ([np.inf, 1.0], [np.inf, 1.0], True),
        ([np.inf, 1.0], [-np.inf, 1.0], False),
        ([1.0, 1.0], [np.nan, 1.0], False),
        ([1.0, 1.0], [1.0, 1.0, 1.0], False),
        ([3.0, 3.0], [3.0, 3.0], True),
        ([], [], True),
    ],
)
def test_what_is_not_finite_must_be_equal(right: list[float], found: list[float], ok: bool) -> None:
    arrays = (np.array(values, dtype=np.float32) for values in (right, found))
    assert measure("y", *arrays, DType.F32).ok is ok


def test_integers_must_be_equal() -> None:
    assert measure("y", np.array([1, 2]), np.array([1, 2]), DType.I64).ok
    assert not measure("y", np.array([1, 2_000_000]), np.array([2, 2_000_000]), DType.I64).ok


def test_a_missing_output_is_infinitely_far_off() -> None:
    module = parse(CHAIN)
    gaps = compare_outputs(module, trace(module, X), {})
    assert [gap.error for gap in gaps] == [float("inf")] * 2
