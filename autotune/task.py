"""What can be tuned in a module: its distinct kernels, how often each runs, what may be chosen."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optc.backends.kernel import Job
from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.plan import Knobs, Plan, Problem
from optc.backends.works import works_of
from optc.ir.cost import Cost, cost
from optc.ir.module import Module
from optc.ir.targets.target import Target


@dataclass(frozen=True)
class TuningTask:
    """A kernel of a module: `uses` calls of it in one run, `cost` of one call.

    `name` is the only one of its kind in the module: the second `linear` is `linear-2`.
    `key` names the computation, which of its inputs are constants, the machine and the template's
    version: a record made for it holds wherever the same key comes up. `searched` are settings
    beyond those that the template lists.
    """

    key: str
    name: str
    job: Job
    plan: Plan
    uses: int
    cost: Cost
    searched: tuple[Knobs, ...] = ()

    @property
    def template(self) -> str:
        """`name/version` of the template that takes the task."""
        return self.plan.template

    @property
    def candidates(self) -> Sequence[Knobs]:
        """Settings, the analytic model's best guess first."""
        return (*self.plan.candidates(), *self.searched)


def tasks_of(module: Module, target: Target) -> tuple[TuningTask, ...]:
    """The kernels of a fused module, each once, in the order of their first use."""
    found: dict[str, TuningTask] = {}
    for graph in module.graphs:
        for work in works_of(graph):
            plan, _ = match(Problem(work.job.body, work.job.constants, target))
            key = task_key(work.job, target, plan.template)
            if key in found:
                found[key] = replace(found[key], uses=found[key].uses + 1)
                continue
            price = cost(work.node)
            found[key] = TuningTask(key, work.job.body.name, work.job, plan, 1, price)
    return _distinct(tuple(found.values()))


def _distinct(tasks: tuple[TuningTask, ...]) -> tuple[TuningTask, ...]:
    seen: Counter[str] = Counter()
    named = []
    for task in tasks:
        seen[task.name] += 1
        number = seen[task.name]
        named.append(replace(task, name=f"{task.name}-{number}") if number > 1 else task)
    return tuple(named)


def task_key(job: Job, target: Target, template: str) -> str:
    """A digest of all that a measurement depends on, but for the knobs."""
    # A set's order changes from process to process; a description is for people.
    machine = replace(target, name="", description="", dtypes=frozenset())
    text = f"{job.structure} {machine!r} {template}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
