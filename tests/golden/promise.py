"""What a golden case runs, and what the effect of its passes promises about the numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from optc.backends.reference.fold import evaluate_constants
from optc.ir.constant import Absent
from optc.ir.dtype import DType
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.text import parse, print_module
from optc.passes.base import Effect, PassContext
from optc.passes.pipeline import Pipeline
from optc.payoff import modelled_latency
from optc.quality.evidence import DataRequest, Evidence
from tests.golden.page import INPUT, UNCHANGED, Case
from tests.passes.oracle import same

# How far a pass that is not EXACT may move a result, as a share of the output's largest magnitude;
# the coarsest dtype in the module decides.
TOLERANCE = {DType.BF16: 3e-2, DType.F16: 4e-3, DType.F32: 2e-5, DType.F64: 1e-10}


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
    pipeline = Pipeline.parse(case.pipeline)
    context = _context(case, before)
    after = pipeline.run(before, context)
    text = UNCHANGED if after is before else print_module(after)
    if case.fitted:
        text = re.sub(r"constant \{[^}]*\}", "constant {...}", text)
    remarks = "".join(
        f"{finding.code} {finding.message}" + (f" -- {finding.loc}" if finding.loc else "") + "\n"
        for finding in context.diagnostics
    )
    return Outcome(before, after, pipeline, text if text.endswith("\n") else f"{text}\n", remarks)


def check_numbers(case: Case) -> None:
    """The result prints and parses back, stays as it is in a second run, and computes the same."""
    outcome = run_case(case)
    before, after = outcome.before, outcome.after
    assert print_module(parse(print_module(after))) == print_module(after)
    steps = outcome.pipeline.passes
    if any(step.effect is Effect.LOSSY for step in steps):
        return  # a second run removes its share again
    assert outcome.pipeline.run(after, _context(case, before)) is after, (
        "a second run changed it again"
    )
    if not _evaluable(before):
        return
    exact = all(step.effect is Effect.EXACT and not step.composite for step in steps)
    same(before, after, exact=exact, tolerance=_tolerance(before), seed=0)


def _context(case: Case, before: Module) -> PassContext:
    target = find_target(case.target)
    context = PassContext(target, evaluate=evaluate_constants, latency=modelled_latency(target))
    if not case.samples:
        return context
    evidence = Evidence(before, DataRequest(_data(before, case.samples), metric=case.metric))
    return replace(context, calibration=evidence.calibration, judge=evidence.judge)


def _data(module: Module, samples: int) -> Mapping[str, np.ndarray]:
    """Seeded standard normal samples for inputs whose first axis is the batch."""
    draw = np.random.default_rng(0)
    return {
        port.name: draw.standard_normal((samples, *port.type.shape[1:])).astype(np.float32)
        for port in module.inputs
    }


def _evaluable(module: Module) -> bool:
    constants = [c for graph in module.graphs for c in graph.constants.values()]
    return not any(isinstance(item.source, Absent) for item in constants)


def _tolerance(module: Module) -> float:
    values = [v for graph in module.graphs for node in graph.nodes for v in node.outputs]
    found = {value.type.dtype for value in values}
    return next((share for dtype, share in TOLERANCE.items() if dtype in found), 2e-5)
