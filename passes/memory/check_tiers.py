"""Judges a placement in tiers, knowing nothing of how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optc.passes.memory.tiers import Residence, TierCopy, TierPlan
from optc.passes.memory.traffic import Buffer, Schedule


def check_tiers(schedule: Schedule, capacity: int, plan: TierPlan) -> Iterator[str]:
    """What is wrong with a plan, one sentence each; walks the steps and tracks where bytes are.

    A buffer is valid in a tier once a step wrote it there or a copy to there is done, and its bytes
    in the fast tier stay only as long as a residence holds.
    """
    yield from _space(schedule, capacity, plan)
    for number, buffer in enumerate(schedule.buffers):
        stays = [r for r in plan.residences if r.buffer == number]
        copies = [c for c in plan.copies if c.buffer == number]
        if buffer.fixed and (stays or copies):
            yield f"{buffer.name} is the caller's, and lies in the fast tier"
        near = {step for owner, step in plan.fast if owner == number}
        yield from _walk(buffer, stays, copies, near, len(schedule.flops))


def _walk(
    buffer: Buffer,
    stays: Sequence[Residence],
    copies: Sequence[TierCopy],
    near: set[int],
    steps: int,
) -> Iterator[str]:
    valid = {"slow"} if buffer.made is None else set()
    for step in range(steps):
        held = any(r.first <= step <= r.last for r in stays)
        if not held or any(r.first == step for r in stays):
            valid.discard("fast")
        for copy in copies:
            if copy.done == step and (held or not copy.to_fast):
                valid.add("fast" if copy.to_fast else "slow")
        for copy in copies:
            source = "slow" if copy.to_fast else "fast"
            if copy.start == step and source not in valid:
                yield f"{buffer.name}: a copy begins at step {step}, and it is not in {source}"
        if step in buffer.moved:
            place = "fast" if step in near else "slow"
            yield from _use(buffer, step, place, held, valid)
            valid = {place} if step == buffer.made else valid


def _use(buffer: Buffer, step: int, place: str, held: bool, valid: set[str]) -> Iterator[str]:
    if place == "fast" and not held:
        yield f"{buffer.name}: step {step} uses it in the fast tier, which does not hold it"
    if step != buffer.made and place not in valid:
        yield f"{buffer.name}: step {step} reads it in {place}, where it is not yet"


def _space(schedule: Schedule, capacity: int, plan: TierPlan) -> Iterator[str]:
    for index, one in enumerate(plan.residences):
        end = one.offset + schedule.buffers[one.buffer].nbytes
        if one.offset < 0 or end > capacity:
            yield f"{schedule.buffers[one.buffer].name} ends at {end} of {capacity}"
        for other in plan.residences[:index]:
            after = other.offset + schedule.buffers[other.buffer].nbytes
            together = one.first <= other.last and other.first <= one.last
            if together and one.offset < after and other.offset < end:
                yield f"residences {one} and {other} overlap"
    for copy in plan.copies:
        holds = (
            r.buffer == copy.buffer and r.first <= copy.start and copy.done - 1 <= r.last
            for r in plan.residences
        )
        if copy.start >= copy.done or not any(holds):
            yield f"the copy {copy} has no place in the fast tier until it is done"
