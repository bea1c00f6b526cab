"""Memory tables: arenas beside their lower bound, and placements in tiers beside theirs.

    python -m benchmarks memory [MODEL ...] [--again]

Kernels are built, as their workspaces lie in the arena too; nothing is run. The second table is
simulated (`map-memory`), at capacities of 10, 25 and 50 % of the largest live set. A model that is
in the results is not measured again without `--again`.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import optc
from benchmarks.in_place import peak_in_place
from benchmarks.models import MODELS
from optc.backends.aot.check_plan import check_plan
from optc.backends.aot.planner import Interval, lower_bound
from optc.backends.assemble import assemble
from optc.backends.program import Program
from optc.backends.tvm.builder import kernel_builder
from optc.driver import lower_module
from optc.ir.graph import Graph
from optc.ir.module import Module
from optc.ir.targets.detect import host
from optc.ir.targets.find import find_target
from optc.passes.base import Pass
from optc.passes.memory.check_tiers import check_tiers
from optc.passes.memory.footprint import footprint
from optc.passes.memory.place_tiers import place_greedily
from optc.passes.memory.reorder_nodes import ReorderNodes
from optc.passes.memory.tiers import TierPlan, simulate
from optc.passes.memory.tiers import lower_bound as least_time
from optc.passes.memory.traffic import machine_of, schedule_of

RESULTS = Path(__file__).parent / "results"
SHARES = (0.10, 0.25, 0.50)
TIERED, FAST, SLOW = "cortex-a53", "l2", "dram"


@dataclass(frozen=True, slots=True)
class Arena:
    """Bytes of one model: largest live sets of values, of all that the arena holds, the arena.

    `before` and `after` are those of `reorder-nodes`, `in_place` what is left of `after` where
    outputs go over inputs that end there. Streamed weights apart, nothing else is allocated.
    """

    values: int
    before: int
    after: int
    in_place: int
    bound: int
    arena: int


@dataclass(frozen=True, slots=True)
class Tiered:
    """A placement at one capacity, bytes; times are multiples of the least."""

    share: float
    capacity: int
    uses: tuple[int, int]  # in the fast memory, of all
    copies: tuple[int, int]  # fetched, written back
    slow: float
    planned: float

    @property
    def closed(self) -> float:
        """The share of the gap to the least time that the plan closes."""
        return (self.slow - self.planned) / (self.slow - 1) if self.slow > 1 else 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """Both tables' part of one model, or what went wrong."""

    model: str
    date: str
    arena: Arena | None = None
    tiers: tuple[Tiered, ...] = ()
    problem: str = ""


class Before:
    """An observer that keeps the largest live set before nodes were reordered."""

    peak = 0

    def before(self, step: Pass, module: Module) -> None:
        """Note what `reorder-nodes` is given."""
        if step.name == ReorderNodes.name:
            self.peak = peak_of(module, peak)

    def after(self, step: Pass, before: Module, after: Module) -> None:
        """Nothing to note."""


def peak(graph: Graph, *, outputs_outside: bool) -> int:
    """The largest live set of a graph, kernels' workspaces apart."""
    steps = footprint(graph, outputs_outside=outputs_outside)
    return steps.peak(range(len(steps.nodes)))


def peak_of(module: Module, count: Callable[..., int]) -> int:
    """The largest that `count` says of any graph."""
    alone = len(module.graphs) == 1
    return max((count(graph, outputs_outside=alone) for graph in module.graphs), default=0)


def arena_of(module: Module, before: int, program: Program) -> Arena:
    """The arena beside its bounds; raises where the independent checker finds something."""
    values = [Interval(v.nbytes, v.first, v.last) for v in program.held]
    problems = check_plan(values, [v.offset for v in program.held], program.arena_bytes)
    if problems:
        raise ValueError("; ".join(problems))
    peaks = (before, peak_of(module, peak), peak_of(module, peak_in_place))
    return Arena(len(values), *peaks, lower_bound(values), program.arena_bytes)


def tiers_of(module: Module) -> Iterator[Tiered]:
    """A placement for each capacity; raises where the independent checker finds something."""
    graph = max(module.graphs, key=lambda graph: len(graph.nodes))
    schedule = schedule_of(graph)
    for share in SHARES:
        size = max(64, int(schedule.largest_live() * share))
        machine = machine_of(find_target(TIERED), FAST, SLOW, size)
        plan = place_greedily(schedule, machine)
        if problems := list(check_tiers(schedule, size, plan)):
            raise ValueError("; ".join(problems))
        least = least_time(schedule, machine)
        fetched = sum(copy.to_fast for copy in plan.copies)
        yield Tiered(
            share,
            size,
            (len(plan.fast), sum(len(buffer.moved) for buffer in schedule.buffers)),
            (fetched, len(plan.copies) - fetched),
            simulate(schedule, machine, TierPlan()).makespan / least,
            simulate(schedule, machine, plan).makespan / least,
        )


def measured(name: str) -> Result:
    """Both parts of one model."""
    model, inputs = MODELS[name].make()
    module = optc.capture(model, inputs)
    watcher = Before()
    lowered = lower_module(module, host(), observers=(watcher,))
    builder = kernel_builder(host())
    program = assemble(lowered, lambda jobs: builder.build(jobs), host())
    arena = arena_of(lowered, watcher.peak, program)
    return Result(name, str(date.today()), arena, tuple(tiers_of(lowered)))


def read(path: Path) -> dict[str, Result]:
    """What earlier runs wrote, by model."""
    found = {}
    for item in json.loads(path.read_text()) if path.exists() else ():
        tiers = tuple(
            Tiered(**{**row, "uses": tuple(row["uses"]), "copies": tuple(row["copies"])})
            for row in item["tiers"]
        )
        arena = Arena(**item["arena"]) if item["arena"] else None
        found[item["model"]] = Result(**{**item, "arena": arena, "tiers": tiers})
    return found


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 1.0


ARENA = (
    "model", "values", "live before, kB", "reordered", "in place", "bound, kB", "arena, kB",
    "arena/bound",
)  # fmt: skip
TIERS = (
    "model", "capacity", "kB", "uses in fast", "fetched", "written back",
    "all slow / least", "planned / least", "of the gap closed",
)  # fmt: skip


def arena_page(results: Sequence[Result]) -> str:
    """The first table."""
    found = [(r.model, r.arena) for r in results if r.arena is not None]
    ratios = [a.arena / a.bound if a.bound else 1.0 for _, a in found]
    saved = [a.in_place / a.after for _, a in found if a.after]
    gains = sum(share < 0.99 for share in saved)
    rows = [
        [
            name,
            str(a.values),
            *(f"{n / 1e3:.1f}" for n in (a.before, a.after, a.in_place, a.bound, a.arena)),
            f"{ratio:.4f}",
        ]
        for (name, a), ratio in zip(found, ratios, strict=True)
    ]
    failed = [f"{r.model}: {r.problem}" for r in results if r.problem]
    lines = [
        f"{host().description}, {host().cores} cores; `python -m benchmarks memory`.",
        "",
        "Arena over the largest live set, kernels' workspaces included: geometric mean "
        f"{geometric_mean(ratios):.4f}, worst {max(ratios, default=1.0):.4f}, {len(ratios)} models."
        " `live before` and `reordered` are the largest live sets of values alone, before and "
        "after `reorder-nodes`; where the bound is larger, workspaces are.",
        "",
        "`in place` is a bound of what is not done: the largest live set if each kernel wrote over "
        "an input that ends there, wherever an output's element needs only the input's at the same "
        f"place. It is {geometric_mean(saved):.3f} of `reordered` in geometric mean; {gains} of "
        f"{len(saved)} models would need less, the others are bound by kernels that read more.",
        "",
        *table(ARENA, rows),
        *(["", f"Not measured: {'; '.join(failed)}."] if failed else []),
    ]
    return "\n".join(lines) + "\n"


def tiers_page(results: Sequence[Result]) -> str:
    """The second table."""
    rows = [
        [
            r.model, f"{t.share:.0%}", f"{t.capacity / 1e3:.1f}", f"{t.uses[0]}/{t.uses[1]}",
            str(t.copies[0]), str(t.copies[1]), f"{t.slow:.3f}", f"{t.planned:.3f}",
            f"{t.closed:.0%}",
        ]
        for r in results
        for t in r.tiers
    ]  # fmt: skip
    lines = [
        f"`python -m benchmarks memory`, {sum(bool(r.tiers) for r in results)} models.",
        "",
        f"Simulated, not measured: {TIERED} with {FAST} as a memory that the program fills before "
        f"{SLOW}, nominal rates, capacity as a share of the largest live set (weights live while "
        "they are read). `least` has everything in the fast memory at no cost. Every plan passed "
        "the independent checker.",
        "",
        *table(TIERS, rows),
    ]
    return "\n".join(lines) + "\n"


def write(results: Mapping[str, Result], folder: Path) -> None:
    """The numbers, and both tables of them, in the order of the models."""
    place = {name: number for number, name in enumerate(MODELS)}
    every = sorted(results.values(), key=lambda r: place.get(r.model, len(place)))
    numbers = json.dumps([asdict(result) for result in every], indent=1)
    (folder / "memory.json").write_text(numbers + "\n")
    (folder / "memory.md").write_text(arena_page(every))
    (folder / "memory_tiers.md").write_text(tiers_page(every))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not known yet; write the tables after each model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    path = options.results / "memory.json"
    for name in options.models:
        known = read(path).get(name)
        if known is not None and not known.problem and not options.again:
            continue
        start = time.perf_counter()
        try:
            result = measured(name)
        except Exception as problem:  # one model's failure is a line below the table
            traceback.print_exc()
            text = f"{type(problem).__name__}: {str(problem).splitlines()[0][:80]}"
            result = Result(name, str(date.today()), problem=text)
        write({**read(path), name: result}, options.results)
        print(name, result.arena, f"{time.perf_counter() - start:.0f} s", flush=True)
        gc.collect()
    write(read(path), options.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
