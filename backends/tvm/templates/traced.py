"""Schedules that MetaSchedule found: a trace of its steps, replayed on the task's plain loops.

A trace is all that is kept of a search: replaying one needs none of MetaSchedule's machinery.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass

from tvm import te
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace
from tvm.tirx import PrimFunc

from optc.backends.tvm.templates.elements import tensors_of
from optc.backends.tvm.templates.plan import Problem
from optc.backends.tvm.templates.stages import stages_of
from optc.ir.dtype import DType

_HALVES = frozenset({DType.F16, DType.BF16})  # their arithmetic is widened stage by stage instead


@dataclass(frozen=True, slots=True)
class Traced:
    """The steps of a schedule, as the JSON text of a `tvm.s_tir.schedule.Trace`."""

    trace: str

    @staticmethod
    def read(text: str) -> Traced | None:
        """What `repr` printed; None for the settings of another kind."""
        if not text.startswith("Traced(trace="):
            return None
        try:
            trace = ast.literal_eval(text.removeprefix("Traced(trace=").removesuffix(")"))
        except (SyntaxError, ValueError):
            return None
        return Traced(trace) if isinstance(trace, str) else None


def loops_of(problem: Problem) -> PrimFunc | None:
    """The task as unscheduled loops; None where a stage is hand-written, or computes with halves.

    Outputs that are inputs, or that are given twice, have no loops of their own: None as well.
    """
    tensors = tensors_of(problem.body)
    results = [tensors[value] for value in problem.body.outputs]
    if any(not isinstance(op, te.ComputeOp) for op in stages_of(results)):
        return None
    values = {*problem.body.inputs, *(v for node in problem.body.nodes for v in node.outputs)}
    if any(value.type.dtype in _HALVES for value in values) or len(set(results)) < len(results):
        return None
    return te.create_prim_func([*(tensors[value] for value in problem.body.inputs), *results])


def replayed(problem: Problem, symbol: str, knobs: Traced) -> PrimFunc:
    """The function that a trace makes; raises ValueError where it does not fit the task."""
    plain = loops_of(problem)
    if plain is None:
        raise ValueError("the task has no loops to schedule")
    schedule = Schedule(plain.with_attr("global_symbol", "main"))
    Trace.apply_json_to_schedule(json.loads(knobs.trace), schedule)
    return schedule.mod["main"].with_attr("global_symbol", symbol)
