"""Kernels from tasks: match a template, emit, compile; in threads, since LLVM lets go of Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from optc.backends.kernel import Job
from optc.backends.program import Launch
from optc.backends.tvm.codegen import compile_functions
from optc.backends.tvm.naming import symbol_of
from optc.backends.tvm.templates import GENERIC, match
from optc.backends.tvm.templates.plan import Knobs, Miss, Pack, Plan, Problem
from optc.ir.diagnostics import Diagnostic
from optc.ir.graph import Graph
from optc.ir.targets.target import Target


@dataclass(frozen=True, slots=True)
class Kernel:
    """A compiled task: `int32_t symbol(inputs..., outputs...[, workspace])` inside `object`.

    Inputs in `packs` are expected as those packs lay them out. `knobs` says what the template
    chose; `misses` why the templates before it did not take the task.
    """

    symbol: str
    object: bytes
    packs: Mapping[int, Pack]
    workspaces: tuple[int, ...]
    template: str
    knobs: str
    misses: tuple[tuple[str, Miss], ...] = ()
    launches: tuple[Launch, ...] = ()
    source: str = ""
    flops: int | None = None


# Settings for a job whose template has made a plan; None: the analytic model's best guess.
Choose = Callable[[Job, Plan], Knobs | None]


def build(job: Job, target: Target, choose: Choose = lambda job, plan: None) -> Kernel:
    """Match, emit with the knobs that `choose` takes, and compile one task.

    Raises CodegenError, and KeyError for an op without a lowering.
    """
    plan, misses = match(Problem(job.body, job.constants, target))
    knobs = choose(job, plan) or plan.candidates()[0]
    symbol = symbol_of(job, target, f"{plan.template} {knobs!r}")
    emitted = plan.emit(symbol, knobs)
    compiled = compile_functions([emitted.function], target)
    size = compiled.workspace[symbol]
    workspaces = (size,) if size else ()
    return Kernel(
        symbol,
        compiled.data,
        emitted.packs,
        workspaces,
        emitted.template or plan.template,
        repr(knobs),
        misses,
        flops=emitted.flops,
    )


@dataclass
class KernelBuilder:
    """Builds kernels for one target, several at a time; notes what people should know."""

    target: Target
    diagnostics: list[Diagnostic] = field(default_factory=list)
    choose: Choose = lambda job, plan: None
    _refusals: dict[str, str | None] = field(default_factory=dict)  # by structure

    def refusal(self, body: Graph, constants: frozenset[int]) -> str | None:
        """Why these nodes would make no good kernel together; None when they do."""
        key = Job(body, constants).structure
        if key not in self._refusals:
            self._refusals[key] = self._refusal(body, constants)
        return self._refusals[key]

    def _refusal(self, body: Graph, constants: frozenset[int]) -> str | None:
        plan, misses = match(Problem(body, constants, self.target))
        if not plan.template.startswith(GENERIC):
            return None
        return "; ".join(f"{name}: {miss.reason}" for name, miss in misses)

    def build(
        self, jobs: Sequence[Job], progress: Callable[[int], None] = lambda _: None
    ) -> list[Kernel]:
        """Kernels in the order of the jobs; `progress` is told how many are done."""
        workers = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(max(1, min(workers, len(jobs)))) as pool:
            return list(
                _counted(pool.map(lambda job: build(job, self.target, self.choose), jobs), progress)
            )


def _counted(kernels: Iterator[Kernel], progress: Callable[[int], None]) -> Iterator[Kernel]:
    for done, kernel in enumerate(kernels, 1):
        progress(done)
        yield kernel
