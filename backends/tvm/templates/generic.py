"""Any task that has a lowering: one loop nest per stage. The template that never says no.

Stages are what must be stored (`stages.py`): elements run vectorised and shared among threads,
folds in vector accumulators, hand-written loops as they are. A tuner may put a schedule that it
searched for in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optc.backends.tvm.templates.emission import StageEmission
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, NoKnobs, Plan, Problem
from optc.backends.tvm.templates.traced import Traced, replayed


@dataclass(frozen=True)
class Generic:
    """Template of everything."""

    name: str = "generic"
    version: int = 1

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes what the lowering tables know."""
        return GenericPlan(problem)


@dataclass(frozen=True)
class GenericPlan:
    """Stage by stage."""

    problem: Problem
    template: str = "generic/1"

    def candidates(self) -> Sequence[Knobs]:
        """There is one way of ours."""
        return [NoKnobs()]

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One nest per stage, or as a search has found it."""
        if isinstance(knobs, Traced):
            return Emitted(replayed(self.problem, symbol, knobs))
        emission = StageEmission(self.problem)
        for op in emission.stages:
            emission.whole(op)
        return Emitted(emission.finish(symbol))
