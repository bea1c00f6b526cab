"""What a golden case runs, and what the effect of its passes promises about the numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from optc.backends.reference.dtypes import TORCH_DTYPE
from optc.backends.reference.evaluate import run
from optc.backends.reference.fold import evaluate_constants
from optc.ir.constant import Absent
from optc.ir.dtype import DType
from optc.ir.module import Module
from optc.ir.targets.catalogue import find_target
from optc.ir.text import parse, print_module
from optc.passes.base import Effect, PassContext
from optc.passes.pipeline import Pipeline
from tests.golden.page import INPUT, UNCHANGED, Case

# How far a ROUNDING pass may move a result, as a share of the largest magnitude of the output.
ROUNDING = {DType.F16: 4e-3, DType.BF16: 3e-2, DType.F64: 1e-10}
ROUNDING_F32 = 2e-5


@dataclass(frozen=True)
class Outcome:
    """What running a case gave."""

    before: Module
    after: Module
    pipeline: Pipeline
    text: str
    remarks: str


def run_case(case: Case) -> Outcome:
    """Parse the input, run the pipeline on it, print the result."""
    before = parse(case.text(INPUT), name=case.path.name)
    context = PassContext(find_target(case.target), evaluate=evaluate_constants)
    pipeline = Pipeline.parse(case.pipeline)
    after = pipeline.run(before, context)
    text = UNCHANGED if after is before else print_module(after)
    remarks = "".join(
        f"{finding.code} {finding.message}" + (f" -- {finding.loc}" if finding.loc else "") + "\n"
        for finding in context.diagnostics
    )
    return Outcome(before, after, pipeline, text if text.endswith("\n") else f"{text}\n", remarks)


def broken(case: Case) -> str | None:
    """Why the numbers are not what the effects promise; None when they are."""
    outcome = run_case(case)
    effects = {step.effect for step in outcome.pipeline.passes}
    if Effect.LOSSY in effects or outcome.after is outcome.before or not _evaluable(outcome.before):
        return None
    inputs = _inputs(outcome.before)
    before, after = run(outcome.before, inputs), run(outcome.after, inputs)
    for name, old in {**before.outputs, **before.states}.items():
        new = {**after.outputs, **after.states}[name]
        reason = _differs(old, new, exact=effects == {Effect.EXACT})
        if reason:
            return f"output {name}: {reason}"
    return None


def _evaluable(module: Module) -> bool:
    constants = [c for graph in module.graphs for c in graph.constants.values()]
    return not any(isinstance(item.source, Absent) for item in constants)


def _inputs(module: Module) -> dict[str, torch.Tensor]:
    """Seeded inputs; integers are 0 or 1, which are good indices into anything."""
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    for port in module.inputs:
        dtype = TORCH_DTYPE[port.type.dtype]
        if dtype.is_floating_point:
            numbers = torch.randn(port.type.shape, generator=generator, dtype=torch.float64)
        else:
            numbers = torch.randint(0, 2, port.type.shape, generator=generator)
        inputs[port.name] = numbers.to(dtype)
    return inputs


def _differs(old: torch.Tensor, new: torch.Tensor, *, exact: bool) -> str | None:
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{tuple(old.shape)} {old.dtype} became {tuple(new.shape)} {new.dtype}"
    if exact or not old.is_floating_point():
        same = torch.equal(old.nan_to_num(nan=7.5), new.nan_to_num(nan=7.5))
        return None if same else "the bits differ, and the passes promise the same bits"
    share = {TORCH_DTYPE[dtype]: value for dtype, value in ROUNDING.items()}.get(old.dtype, ROUNDING_F32)
    finite = old.isfinite()
    if not torch.equal(finite, new.isfinite()):
        return "other elements are infinite or not a number"
    if not finite.any():
        return None
    error = (old[finite].double() - new[finite].double()).abs().max().item()
    scale = max(old[finite].double().abs().max().item(), 1e-30)
    return None if error <= share * scale else f"error {error:.3g} on a range of {scale:.3g}"
