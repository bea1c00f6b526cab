"""Every pass keeps what it promises on random graphs: bits or values, and its fixed point."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from optc.ir.module import Module
from optc.passes.base import Effect, Pass, run_passes
from optc.passes.canonicalize.canonicalize import CLEAN
from optc.passes.canonicalize.merge_linears import MergeLinears
from optc.passes.decompose.decompose_attention import DecomposeAttention
from optc.passes.decompose.decompose_unsupported import DecomposeUnsupported
from optc.passes.standard import CANONICALIZE, LOWER, RAISE
from tests.passes.graphs import modules
from tests.passes.oracle import check, context, same

EXACT = [step for step in CLEAN if step.effect is Effect.EXACT]
ROUNDING = [
    *(step for step in (*CLEAN, *RAISE, *LOWER) if step.effect is Effect.ROUNDING),
    MergeLinears(max_rows=1000),
    DecomposeUnsupported(all=True),
    DecomposeAttention(),
]
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("step", EXACT, ids=str)
@FEW
@given(module=modules(exact=True))
def test_an_exact_pass_keeps_every_bit(step: Pass, module: Module) -> None:
    check(step, module)


@pytest.mark.parametrize("step", [s for s in ROUNDING if not s.composite], ids=str)
@FEW
@given(module=modules(exact=False))
def test_a_rounding_pass_keeps_the_formula(step: Pass, module: Module) -> None:
    check(step, module, tolerance=1e-9)


@settings(FEW, max_examples=150)
@given(module=modules(exact=True))
def test_exact_passes_together_keep_every_bit_and_are_stable(module: Module) -> None:
    after = run_passes(module, CANONICALIZE, context(exact=True))
    assert run_passes(after, CANONICALIZE, context(exact=True)) is after
    check(EXACT[0], after)


@settings(FEW, max_examples=150)
@given(module=modules(exact=False))
def test_the_standard_clean_up_keeps_the_formula_and_is_stable(module: Module) -> None:
    check(CANONICALIZE, module, tolerance=1e-9)


@settings(FEW, max_examples=100)
@given(module=modules(exact=False))
def test_the_standard_order_keeps_the_formula_and_ends_clean(module: Module) -> None:
    after = run_passes(module, (*RAISE, *LOWER), context())
    assert run_passes(after, CANONICALIZE, context()) is after
    same(module, after, exact=False, tolerance=1e-9, seed=1)
