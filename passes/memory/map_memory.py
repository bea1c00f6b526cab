"""Plan which values and weights lie in a target's fast memory, and say what it would be worth.

The graph stays as it is: this is a plan with copies that are begun and awaited, judged in a
simulator. CPUs and GPUs fill their caches by themselves; a memory that a program fills, such as the
SRAM of a small chip, is what the plan is for.
"""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.diagnostics import error
from optc.ir.graph import Graph
from optc.ir.module import Module
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.memory.place_tiers import place_greedily
from optc.passes.memory.tiers import Simulated, TierPlan, lower_bound, simulate
from optc.passes.memory.traffic import (
    NOMINAL,
    Buffer,
    Machine,
    Schedule,
    machine_of,
    schedule_of,
)

NAMED = 3  # values that get a remark of their own


@dataclass(frozen=True)
class MapMemory(Pass):
    """Plan the fast memory `fast` before `slow`: which uses it serves, copies, simulated times."""

    name = "map-memory"
    effect = Effect.EXACT
    fast: str = "l2"  # a memory space of the target
    slow: str = "dram"  # the one behind it, which holds everything
    capacity: int = 0  # bytes of the fast one; 0: what the target says

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The same module; the plan is in the remarks."""
        machine = self.machine(ctx)
        for graph in module.graphs:
            self.plan(graph, machine, ctx)
        return module

    def machine(self, ctx: PassContext) -> Machine:
        """The target's two spaces; raises E0138 for one it does not have."""
        spaces = {space.name: space.size for space in ctx.target.memory}
        for name in (self.fast, self.slow):
            if name not in NOMINAL:
                known = ", ".join(NOMINAL)
                raise error("E0138", f"no memory space is called {name!r}", help=f"one of {known}")
        if not self.capacity and not spaces.get(self.fast):
            raise error(
                "E0138",
                f"{ctx.target.name} does not say how large {self.fast} is",
                help=f"-p 'map-memory{{fast={self.fast},capacity=262144}}'",
            )
        return machine_of(ctx.target, self.fast, self.slow, self.capacity)

    def plan(self, graph: Graph, machine: Machine, ctx: PassContext) -> None:
        """Plan one graph; raises E0139 where the tier holds nothing of it."""
        schedule = schedule_of(graph)
        movable = [b for b in schedule.buffers if b.moved and not b.fixed and b.nbytes]
        if movable and machine.fast.size < min(b.nbytes for b in movable):
            least = min(movable, key=lambda b: b.nbytes)
            raise error(
                "E0139",
                f"{machine.fast.name} of {machine.fast.size} bytes holds nothing of @{graph.name}: "
                f"the smallest is {least.nbytes} bytes, {least.name}",
                help=f"-p 'map-memory{{capacity={least.nbytes}}}'",
            )
        if not movable:
            return
        plan = place_greedily(schedule, machine)
        found = simulate(schedule, machine, plan)
        ctx.remark("N0321", _summary(graph, schedule, machine, plan, found))
        for text in _left_out(schedule, machine, plan):
            ctx.remark("N0322", text)


def _summary(
    graph: Graph, schedule: Schedule, machine: Machine, plan: TierPlan, found: Simulated
) -> str:
    uses = sum(len(buffer.moved) for buffer in schedule.buffers)
    least = lower_bound(schedule, machine)
    without = simulate(schedule, machine, TierPlan()).makespan
    fetched = sum(copy.to_fast for copy in plan.copies)
    copies = f"{fetched} fetched and {len(plan.copies) - fetched} written back"
    times = f"{found.makespan / least:.3f} times the least time, {without / least:.3f} without it"
    return (
        f"@{graph.name}: {machine.fast.name} of {machine.fast.size} bytes serves "
        f"{len(plan.fast)} of {uses} uses, with {copies}; simulated {times}"
    )


def _left_out(schedule: Schedule, machine: Machine, plan: TierPlan) -> list[str]:
    """The values that move most bytes and are never in the fast tier, and why."""
    served = {buffer for buffer, _ in plan.fast}
    left = [
        (sum(buffer.moved.values()), buffer)
        for number, buffer in enumerate(schedule.buffers)
        if number not in served and buffer.moved
    ]
    ranked = sorted(left, key=lambda pair: -pair[0])[:NAMED]
    return [f"{b.name} stays in {machine.slow.name}: {_why(b, machine)}" for _, b in ranked]


def _why(buffer: Buffer, machine: Machine) -> str:
    if buffer.fixed:
        return "the caller holds it, or several nodes write it"
    if buffer.nbytes > machine.fast.size:
        return f"its {buffer.nbytes} bytes are more than {machine.fast.name} has"
    return "it would save no time, or others that save more have the room"
