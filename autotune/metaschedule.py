"""The bridge to TVM's MetaSchedule: candidates for tasks that no template takes.

Its rules generate a space of schedules (Shao et al. 2022, section 4), seeded samples of which join
the task's candidates; measuring, learning and remembering are this package's own. The same seed
gives the same samples, so a session goes on where the last one stopped. The first use imports
MetaSchedule's tensor intrinsics, which takes about 20 s: tasks that need none never pay for it.
"""

from __future__ import annotations

import json
from dataclasses import replace

from tvm.s_tir.schedule import Schedule

from optc.autotune.task import TuningTask
from optc.backends.tvm.target_info import llvm_target
from optc.backends.tvm.templates.generic import GenericPlan
from optc.backends.tvm.templates.traced import Traced, loops_of
from optc.ir.targets.target import Target

SAMPLES = 64  # schedules of a task; fewer where its space is smaller
_BATCH = 16


def widened(task: TuningTask, target: Target, seed: int = 0) -> TuningTask:
    """The task with MetaSchedule's candidates; the same object where there are none to be had.

    There are none for a task that a template takes, nor for hand-written loops.
    """
    if task.searched or not isinstance(task.plan, GenericPlan):
        return task
    plain = loops_of(task.plan.problem)
    if plain is None:
        return task
    from tvm.s_tir import meta_schedule

    context = meta_schedule.TuneContext(
        plain,
        target=llvm_target(target),
        space_generator=meta_schedule.space_generator.PostOrderApply(),
        search_strategy=meta_schedule.search_strategy.ReplayTrace(),
        rand_state=seed + 1,  # 0 is refused
        num_threads=1,  # more of them draw in an order of their own
    )
    context.pre_tuning(max_trials=4 * SAMPLES, num_trials_per_iter=_BATCH)
    found: dict[Traced, None] = {}
    while len(found) < SAMPLES and (batch := context.generate_measure_candidates()):
        found |= dict.fromkeys(_traced(candidate.sch) for candidate in batch)
        context.notify_runner_results(batch, [])
    context.post_tuning()
    return replace(task, searched=tuple(found)[:SAMPLES])


def _traced(schedule: Schedule) -> Traced:
    return Traced(json.dumps(_plain(schedule.trace.as_json())))


def _plain(node: object) -> object:
    """TVM's arrays, strings and numbers as Python's."""
    if isinstance(node, str):
        return str(node)
    if isinstance(node, bool) or node is None:
        return node
    if isinstance(node, int | float):
        return node
    if hasattr(node, "value"):
        return _plain(node.value)
    return [_plain(item) for item in node]  # type: ignore[attr-defined]
