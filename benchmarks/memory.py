"""Memory tables: arenas beside their lower bound, and placements in tiers beside theirs.

    python -m benchmarks.memory [MODEL ...] [--out F] [--tiers F] [--only-tiers]

Kernels are built, as their workspaces lie in the arena too; nothing is run. The second table is
simulated (`map-memory`), at capacities of 10, 25 and 50 % of the largest live set; it takes no
kernels, and `--only-tiers` builds none.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import optc
from benchmarks.models import MODELS
from optc.backends.aot.check_plan import check_plan
from optc.backends.aot.planner import Interval, lower_bound
from optc.backends.assemble import assemble
from optc.backends.program import Program
from optc.backends.tvm.builder import kernel_builder
from optc.driver import lower_module
from optc.ir.module import Module
from optc.ir.targets.catalogue import find_target
from optc.ir.targets.detect import host
from optc.passes.base import Pass
from optc.passes.memory.check_tiers import check_tiers
from optc.passes.memory.footprint import footprint
from optc.passes.memory.place_tiers import place_greedily
from optc.passes.memory.reorder_nodes import ReorderNodes
from optc.passes.memory.tiers import TierPlan, simulate
from optc.passes.memory.tiers import lower_bound as least_time
from optc.passes.memory.traffic import machine_of, schedule_of

SHARES = (0.10, 0.25, 0.50)
TIERED, FAST, SLOW = "cortex-a53", "l2", "dram"


class Before:
    """An observer that keeps the largest live set before nodes were reordered."""

    peak = 0

    def before(self, step: Pass, module: Module) -> None:
        """Note what `reorder-nodes` is given."""
        if step.name == ReorderNodes.name:
            self.peak = peak_of(module)

    def after(self, step: Pass, before: Module, after: Module) -> None:
        """Nothing to note."""


def peak_of(module: Module) -> int:
    """The largest live set of any graph, kernels' workspaces apart."""
    alone = len(module.graphs) == 1
    steps = [footprint(graph, outputs_outside=alone) for graph in module.graphs]
    return max((item.peak(range(len(item.nodes))) for item in steps), default=0)


def arena_row(name: str, module: Module, before: int, program: Program) -> list[str]:
    """A line of the first table; raises where the independent checker finds something."""
    values = [Interval(v.nbytes, v.first, v.last) for v in program.held]
    problems = check_plan(values, [v.offset for v in program.held], program.arena_bytes)
    if problems:
        raise ValueError("; ".join(problems))
    bound = lower_bound(values)
    share = program.arena_bytes / bound if bound else 1.0
    numbers = (before, peak_of(module), bound, program.arena_bytes)
    return [name, str(len(values)), *(f"{n / 1e3:.1f}" for n in numbers), f"{share:.4f}"]


def tier_rows(name: str, module: Module) -> Iterator[list[str]]:
    """Lines of the second table, one for each capacity."""
    graph = max(module.graphs, key=lambda graph: len(graph.nodes))
    schedule = schedule_of(graph)
    for share in SHARES:
        size = max(64, int(schedule.largest_live() * share))
        machine = machine_of(find_target(TIERED), FAST, SLOW, size)
        plan = place_greedily(schedule, machine)
        if problems := list(check_tiers(schedule, size, plan)):
            raise ValueError("; ".join(problems))
        found, least = simulate(schedule, machine, plan), least_time(schedule, machine)
        without = simulate(schedule, machine, TierPlan()).makespan
        uses = sum(len(buffer.moved) for buffer in schedule.buffers)
        gap = (without - found.makespan) / (without - least) if without > least else 1.0
        yield [
            name, f"{share:.0%}", f"{size / 1e3:.1f}", f"{len(plan.fast)}/{uses}",
            str(sum(copy.to_fast for copy in plan.copies)),
            str(sum(not copy.to_fast for copy in plan.copies)),
            f"{without / least:.3f}", f"{found.makespan / least:.3f}", f"{gap:.0%}",
        ]  # fmt: skip


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 1.0


ARENA = ("model", "values", "live before, kB", "reordered", "bound, kB", "arena, kB", "arena/bound")
TIERS = (
    "model", "capacity", "kB", "uses in fast", "fetched", "written back",
    "all slow / least", "planned / least", "of the gap closed",
)  # fmt: skip


def measured(name: str, only_tiers: bool) -> tuple[list[str], list[list[str]]]:
    """Both tables' lines of one model; nothing for the first with `only_tiers`."""
    model, inputs = MODELS[name].make()
    module = optc.capture(model, inputs)
    watcher = Before()
    lowered = lower_module(module, host(), observers=(watcher,))
    if only_tiers:
        return [], list(tier_rows(name, lowered))
    builder = kernel_builder(host())
    program = assemble(lowered, lambda jobs: builder.build(jobs), host())
    return arena_row(name, lowered, watcher.peak, program), list(tier_rows(name, lowered))


def main() -> None:
    """Print the tables, and write them where `--out` and `--tiers` say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiers", type=Path)
    parser.add_argument("--only-tiers", action="store_true")
    options = parser.parse_args()
    arenas, tiers, failed = [], [], []
    for name in options.models:
        start = time.perf_counter()
        try:
            row, more = measured(name, options.only_tiers)
        except Exception as problem:  # one model's failure is a line below the table
            traceback.print_exc()
            failed.append(f"{name}: {type(problem).__name__}: {str(problem).splitlines()[0][:80]}")
            continue
        arenas += [row] if row else []
        tiers += more
        print(" | ".join(row), f"({time.perf_counter() - start:.0f} s)", flush=True)
        gc.collect()
    ratios = [float(row[-1]) for row in arenas]
    head = (
        f"{date.today()}, {host().description}, {host().cores} cores; `python -m benchmarks.memory`"
    )
    first = [
        head + ".",
        "",
        f"Arena over the largest live set, workspaces included: geometric mean "
        f"{geometric_mean(ratios):.4f}, worst {max(ratios, default=1.0):.4f}, {len(ratios)} "
        "models. `live before` and `reordered` are the largest live sets of values alone, before "
        "and after `reorder-nodes`.",
        "",
        *table(ARENA, arenas),
        *(["", f"Not measured: {'; '.join(failed)}."] if failed else []),
    ]
    second = [
        head + ".",
        "",
        f"Simulated, not measured: {TIERED} with {FAST} as a memory that the program fills before "
        f"{SLOW}, nominal rates, capacity as a share of the largest live set (weights live while "
        "they are read). `least` has everything in the fast memory at no cost. Every plan passed "
        "the independent checker.",
        "",
        *table(TIERS, tiers),
    ]
    for path, lines in ((options.out, first), (options.tiers, second)):
        print("\n".join(lines))
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
