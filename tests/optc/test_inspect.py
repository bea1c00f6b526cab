"""Facts of a module: counted by hand here, and the least time by a roofline."""

from __future__ import annotations

import numpy as np
import pytest

from optc.inspect import inspect_module, macs
from optc.ir.text import parse
from optc.roofline import Level, Limits

LIMITS = Limits(1, 1e9, (Level("l1", 1000, 1e9), Level("dram", 1 << 30, 1e8)))


def only_node(text: str):  # type: ignore[no-untyped-def]
    return parse(text).graphs[0].nodes[0]


@pytest.mark.parametrize(
    ("inputs", "node", "count"),
    [
        ("%x: 2x8xf32, %w: 4x8xf32", "linear(%x, %w) : 2x4xf32", 2 * 4 * 8),
        ("%x: 3x2x8xf32, %w: 3x8x5xf32", "mat_mul(%x, %w) : 3x2x5xf32", 3 * 2 * 8 * 5),
        (
            "%x: 1x4x8x8xf32, %w: 6x2x3x3xf32",
            "conv(%x, %w) {padding=((1, 1), (1, 1)), groups=2} : 1x6x8x8xf32",
            6 * 64 * 2 * 9,
        ),
        ("%x: 2x8xf32, %w: 4x8xf32", "relu(%x) : 2x8xf32", 0),
    ],
)
def test_multiply_adds(inputs: str, node: str, count: int) -> None:
    assert macs(only_node(f"graph @main({inputs}) {{ %y = {node} return %y }}")) == count


def test_parameters_are_counted_once() -> None:
    text = """graph @main(%x: 2x8xf32) {
      %w = constant {seed=1} : 8x8xf32
      %i = constant {seed=2} : 100xi64
      %a = linear(%x, %w) : 2x8xf32
      %b = linear(%a, %w) : 2x8xf32
      return %b
    }"""
    facts = inspect_module(parse(text))
    assert facts.parameters == 64
    assert facts.weight_bytes == 64 * 4 + 100 * 8
    assert facts.ops == {"linear": 2}
    assert facts.macs == 2 * 2 * 64
    assert facts.flops == 2 * facts.macs


def test_peak_memory_is_what_lives_at_once() -> None:
    """X and a live at a; a and b at b: 96 floats at most; the reshape takes no memory."""
    text = """graph @main(%x: 2x8xf32) {
      %a = expand(%x) {shape=(2, 2, 8)} : 2x2x8xf32
      %r = reshape(%a) {shape=(32,)} : 32xf32
      %b = relu(%r) : 32xf32
      %c = neg(%b) : 32xf32
      return %c
    }"""
    assert inspect_module(parse(text)).peak_bytes == 64 * 4


def test_a_node_has_its_source_line() -> None:
    text = 'graph @main(%x: 2xf32) { %y = relu(%x) : 2xf32 @ "m.py":7 in "head" return %y }'
    (node,) = inspect_module(parse(text), LIMITS).nodes
    assert node.place == "m.py:7 (head)"
    assert node.bytes == 16
    assert node.seconds == pytest.approx(16 / 1e9)
    assert np.isclose(node.intensity, 2 / 16)
