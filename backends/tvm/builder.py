"""All kernels of a model for one target: chosen, written and compiled, on every core at hand."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from optc.backends.kernel import Job
from optc.backends.tvm.kernel import Kernel, build_kernel
from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.plan import Plan, Problem
from optc.ir.diagnostics import Diagnostic
from optc.ir.graph import Graph
from optc.ir.structural import graph_digest
from optc.ir.targets.target import Target
from optc.passes.fusion.classify import ROLE, Role
from optc.passes.fusion.outline import outline


class KernelBuilder:
    """Answers `fuse` on what makes a good kernel, and builds the kernels that were agreed on."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.diagnostics: list[Diagnostic] = []
        self._answers: dict[str, str | None] = {}
        self._ranks: dict[str, str] = {}

    def refusal(self, body: Graph, constants: frozenset[int]) -> str | None:
        """Why `body` is no good kernel: its anchor alone would get a better template. None: it is."""
        key = f"{graph_digest(body)} {sorted(constants)}"
        if key not in self._answers:
            self._answers[key] = self._judge(body, constants)
        return self._answers[key]

    def _judge(self, body: Graph, constants: frozenset[int]) -> str | None:
        anchor = next((node for node in body.nodes if ROLE[type(node.op)] is Role.ANCHOR), None)
        if anchor is None or len(body.nodes) == 1:
            return None
        alone = outline(body, (anchor,), set(anchor.outputs))
        fixed = frozenset(
            i for i, v in enumerate(alone.inputs) if v in body.inputs and body.inputs.index(v) in constants
        )
        wanted = match(Problem(alone.body, fixed, self.target))[0].template
        found, misses = match(Problem(body, constants, self.target))
        if found.template == wanted:
            return None
        name = wanted.partition("/")[0]
        return dict(misses)[name].reason if name in dict(misses) else f"{name} would take it"

    def build(self, jobs: Sequence[Job], done: Callable[[int], None]) -> tuple[Kernel, ...]:
        """A kernel for each job, in order; `done` hears how many are ready."""
        kernels: list[Kernel] = []
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            for kernel in pool.map(self._build, jobs):
                kernels.append(kernel)
                done(len(kernels))
        return tuple(kernels)

    def _build(self, job: Job) -> Kernel:
        return build_kernel(symbol_of(job), Problem(job.body, job.constants, self.target))


def symbol_of(job: Job) -> str:
    """The C name of a job's kernel: what it does, and a digest that tells it from others."""
    digest = graph_digest(job.body)[:12]
    fixed = "".join(str(i) for i in sorted(job.constants))
    return f"k_{re.sub(r'[^a-z0-9_]', '_', job.body.name)}_{digest}_{fixed}"
