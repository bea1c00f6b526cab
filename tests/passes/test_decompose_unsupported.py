"""What is taken apart is what the backend says it lacks, down to what it has."""

from __future__ import annotations

from dataclasses import replace

from optc.ir.ops import GroupNorm, LayerNorm, Op, ew
from optc.ir.text import parse
from optc.passes.base import run_passes
from optc.passes.decompose.decompose_unsupported import DecomposeUnsupported
from tests.passes.oracle import context, ops_of, same

MODEL = parse(
    """graph @main(%x: 2x4x3xf32) {
  %a = group_norm(%x) {groups=2} : 2x4x3xf32
  %y = silu(%a) : 2x4x3xf32
  return %y
}"""
)


def lacking(*ops: type[Op]) -> list[str]:
    ctx = replace(context(), supports=lambda op: not isinstance(op, ops))
    after = run_passes(MODEL, [DecomposeUnsupported()], ctx)
    same(MODEL, after, exact=False, tolerance=1e-5, seed=0)
    return ops_of(after)


def test_nothing_is_taken_apart_that_has_a_kernel() -> None:
    assert lacking() == ["group_norm", "silu"]
    assert lacking(LayerNorm) == ["group_norm", "silu"]


def test_one_op_is_taken_apart() -> None:
    assert lacking(ew.Silu) == ["group_norm", "sigmoid", "mul"]
    assert lacking(GroupNorm) == ["reshape", "layer_norm", "reshape", "silu"]


def test_parts_are_taken_apart_in_turn() -> None:
    assert "layer_norm" not in lacking(GroupNorm, LayerNorm)
    assert lacking(ew.Silu, ew.Sigmoid)[1:] == ["neg", "exp", "add", "reciprocal", "mul"]
