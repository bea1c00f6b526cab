"""A pass that a user wrote down and that did nothing is named, with the reason; others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest

from optc.contexts import pass_context
from optc.idle import Idle
from optc.ir.diagnostics import Diagnostic, Severity
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.text import parse
from optc.passes.base import Effect, Pass, PassContext, run_passes
from optc.passes.pipeline import Pipeline
from optc.passes.standard import CANONICALIZE

MODULE = parse("""graph @main(%x: 4x64xf32) {
  %w = constant {seed=1} : 32x64xf32
  %v = constant {seed=2} : 8x32xf32
  %a = linear(%x, %w) : 4x32xf32
  %b = relu(%a) : 4x32xf32
  %y = linear(%b, %v) : 4x8xf32
  return %y
}""")


def findings(pipeline: str, exact: bool = False) -> tuple[Sequence[Diagnostic], Sequence[str]]:
    asked = Pipeline.parse(pipeline).passes
    context = pass_context(find_target("x86-64-v3"), exact=exact)
    idle = Idle(asked, context.diagnostics)
    run_passes(MODULE, (*CANONICALIZE, *asked, *CANONICALIZE), context, (idle,))
    return idle.findings(), [d.code for d in context.diagnostics]


@pytest.mark.parametrize(
    ("pipeline", "named"),
    [
        ("convert-precision", []),
        ("convert-precision,convert-precision", ["convert-precision"]),
        ("convert-precision,quantize-weights{bits=4}", ["quantize-weights{bits=4}"]),
        ("smooth-activations,quantize-weights", ["smooth-activations"]),
        ("prune-heads{ratio=0.5}", ["prune-heads{ratio=0.5}"]),
        ("canonicalize,fold-batch-norm,raise-softmax,remove-dead,map-memory", []),
    ],
)
def test_passes_that_change_nothing_are_named(pipeline: str, named: Sequence[str]) -> None:
    found, _ = findings(pipeline)
    assert {(item.code, item.severity) for item in found} <= {("W0755", Severity.WARNING)}
    assert [item.message.split(" changed nothing")[0] for item in found] == named
    assert all(item.help for item in found)


@dataclass(frozen=True)
class Declines(Pass):
    """Says why, twice, and does nothing."""

    name: ClassVar[str] = "declines"
    effect: ClassVar[Effect] = Effect.LOSSY

    def run(self, module: Module, ctx: PassContext) -> Module:
        ctx.remark("N0341", "no exit: nothing is left to save")
        ctx.remark("N0341", "and another reason")
        return module


def test_the_reason_is_what_the_pass_said() -> None:
    context = pass_context(find_target("x86-64-v3"))
    context.remark("N0330", "of another pass")
    step = Declines()
    idle = Idle((step,), context.diagnostics)
    run_passes(MODULE, (step,), context, (idle,))
    (found,) = idle.findings()
    assert found.message == "declines changed nothing: no exit: nothing is left to save"
    assert found.help == "--remarks"


def test_a_pass_that_warns_itself_is_not_named_twice() -> None:
    found, said = findings("prune-channels{ratio=0.01}")
    assert said.count("W0315") == 1
    assert not found


def test_exactness_leaves_out_what_was_asked_for() -> None:
    found, _ = findings("canonicalize,quantize-weights,remove-dead", exact=True)
    (finding,) = found
    assert "--exact leaves out quantize-weights" in finding.message
