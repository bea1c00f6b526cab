"""From records to kernels: the settings that measurements speak for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from optc.autotune.records import Record, Records
from optc.autotune.task import task_key
from optc.backends.kernel import Job
from optc.backends.tvm.templates.generic import GenericPlan
from optc.backends.tvm.templates.plan import Knobs, Plan
from optc.backends.tvm.templates.traced import Traced
from optc.ir.targets.target import Target

# A gain below this share is within what a busy machine makes of equal kernels.
MARGIN = 0.02


def fastest(candidates: Sequence[Knobs], known: Mapping[str, Record]) -> Knobs | None:
    """The fastest recorded candidate, or the first, the best guess, unless another is clearly so.

    None when no candidate is recorded with a time; records of other knobs say nothing.
    """
    timed = {
        knobs: record.seconds
        for knobs in candidates
        if (record := known.get(repr(knobs))) is not None and record.seconds is not None
    }
    if not timed:
        return None
    guess, best = candidates[0], min(timed, key=timed.__getitem__)
    return guess if guess in timed and timed[best] > timed[guess] * (1 - MARGIN) else best


def recalled(plan: Plan, names: Iterable[str]) -> tuple[Knobs, ...]:
    """Settings that a search found for a task without a template, from what records call them."""
    if not isinstance(plan, GenericPlan):
        return ()
    return tuple(traced for name in names if (traced := Traced.read(name)) is not None)


@dataclass(eq=False)
class Recorded:
    """A `Choose` for kernel builders that remembers what it chose."""

    records: Records
    target: Target
    chosen: dict[str, str] = field(default_factory=dict)  # knobs by task key

    def __call__(self, job: Job, plan: Plan) -> Knobs | None:
        """What the records speak for; None when that is the best guess."""
        key = task_key(job, self.target, plan.template)
        known = self.records.of(key)
        candidates = (*plan.candidates(), *recalled(plan, known))
        knobs = fastest(candidates, known)
        if knobs in (None, candidates[0]):
            return None
        self.chosen[key] = repr(knobs)
        return knobs

    @property
    def digest(self) -> str:
        """Of what was chosen: equal digests mean equal kernels."""
        text = "".join(f"{key} {self.chosen[key]}\n" for key in sorted(self.chosen))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Locked:
    """A `Choose` that takes what an artifact's lock says was chosen, by task key."""

    knobs: Mapping[str, str]
    target: Target

    def __call__(self, job: Job, plan: Plan) -> Knobs | None:
        """The settings of that name; None, the best guess, where the lock names none."""
        name = self.knobs.get(task_key(job, self.target, plan.template))
        if name is None:
            return None
        candidates = (*plan.candidates(), *recalled(plan, [name]))
        return next((knobs for knobs in candidates if repr(knobs) == name), None)
