"""A placement in tiers: what lies in the fast tier when and where, and the copies between.

Judged in a simulator: steps run one after the other, one channel makes the copies one after the
other beside them, and a step waits for the copies it needs. What is simulated is not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from optc.passes.memory.traffic import Machine, Schedule


@dataclass(frozen=True, slots=True)
class Residence:
    """A buffer in the fast tier, at an offset, from the beginning of one step to another's end."""

    buffer: int
    offset: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class TierCopy:
    """A copy that may begin with step `start` and is done before step `done` begins."""

    buffer: int
    start: int
    done: int
    to_fast: bool


@dataclass(frozen=True, slots=True)
class TierPlan:
    """Where each buffer is when it is used: `fast` has (buffer, step); the rest is slow."""

    residences: tuple[Residence, ...] = ()
    copies: tuple[TierCopy, ...] = ()
    fast: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Simulated:
    """Seconds of a run: all of it, what steps waited for copies; and the copies' times."""

    makespan: float
    stalled: float
    begins: tuple[float, ...]  # of steps
    copies: tuple[tuple[float, float], ...]  # begin and end, in the order of the plan's copies


def simulate(schedule: Schedule, machine: Machine, plan: TierPlan) -> Simulated:
    """Run a plan. Copies wait for the channel in the order of their start, then of the plan."""
    begun: dict[int, tuple[float, float]] = {}
    now = channel = stalled = 0.0
    begins: list[float] = []
    starting = _by(plan.copies, lambda copy: copy.start)
    ending = _by(plan.copies, lambda copy: copy.done)
    near = _by_step(plan)
    for step in range(len(schedule.flops)):
        ready = max((begun[index][1] for index in ending.get(step, ())), default=now)
        stalled += max(0.0, ready - now)
        now = max(now, ready)
        begins.append(now)
        for index in starting.get(step, ()):
            begin = max(channel, now)
            nbytes = schedule.buffers[plan.copies[index].buffer].nbytes
            channel = begin + machine.copy_seconds(nbytes)
            begun[index] = (begin, channel)
        now += schedule.seconds(machine, step, near.get(step, frozenset()))
    times = tuple(begun[index] for index in range(len(plan.copies)))
    return Simulated(max([now, *(end for _, end in times)]), stalled, tuple(begins), times)


def lower_bound(schedule: Schedule, machine: Machine) -> float:
    """The seconds of all steps with everything in the fast tier, at no cost: no plan is faster."""
    everything = frozenset(range(len(schedule.buffers)))
    return sum(schedule.seconds(machine, step, everything) for step in range(len(schedule.flops)))


def _by(copies: Sequence[TierCopy], key: Callable[[TierCopy], int]) -> Mapping[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, copy in enumerate(copies):
        found.setdefault(key(copy), []).append(index)
    return found


def _by_step(plan: TierPlan) -> Mapping[int, frozenset[int]]:
    found: dict[int, set[int]] = {}
    for buffer, step in plan.fast:
        found.setdefault(step, set()).add(buffer)
    return {step: frozenset(buffers) for step, buffers in found.items()}
