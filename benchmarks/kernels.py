"""Kernels against the machine's limit over a grid of shapes: `python -m benchmarks kernels`.

    python -m benchmarks kernels --prepare                  # compiles; a minute or two
    python -m benchmarks kernels                            # measures; on a quiet machine
    python -m benchmarks kernels --families "gemm i8"       # one family; the rest is kept

Every kernel is called again and again by itself, so its operands are where it left them: in the
nearest cache that holds them. The fastest call counts. `% of limit` is that of `optc bench`: of
the operations that the kernel does, which for a Winograd convolution are fewer than its definition
takes; and of a call, as a function that returns at once takes it, timed likewise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.kernel_cases import FAMILIES, READING, Case, cases, program
from benchmarks.kernel_cells import Cell
from optc.backends.aot.package import write_artifact
from optc.backends.tvm.kernel import KernelBuilder
from optc.cli.options import cache_folder
from optc.ir.cost import compute_dtype, cost
from optc.ir.targets.detect import host
from optc.limits import limits_of
from optc.roofline import Bound, Limits, Work
from optc.runtime import Artifact, load

RESULTS = Path(__file__).parent / "results"
SECONDS = 0.12  # of calls for each kernel
CALL = "call"  # binds where a call takes longer than the work
READ = "reading"  # of the same weights by the same threads in the same run
_MOSTLY = 0.9  # of the bytes that a kernel moves
BATCHES = 3  # of calls, far apart: a disturbance lasts longer than a kernel


def prepare(family: str, folder: Path, limits: Limits) -> None:
    """Build every kernel of a family into one artifact."""
    grid = cases((family,))
    readers = [number for number, case in enumerate(grid) if _reads(case, limits)]
    builder = KernelBuilder(host())
    kernels = builder.build([case.job for case in grid])
    jobs = [(case.job, case.node) for case in grid]
    made = program(jobs, kernels, host(), readers)
    write_artifact(made, folder / "out", cache=cache_folder())
    made_by = [[kernel.template, kernel.flops] for kernel in kernels]
    (folder / "made.json").write_text(json.dumps({"kernels": made_by, "readers": readers}))


def _reads(case: Case, limits: Limits) -> bool:
    """Whether a kernel does little but read one array of weights from beyond the first cache."""
    if case.family in READING:
        return True
    work = work_of(case)
    alone = len(case.job.body.inputs) == 2 and work.weights > _MOSTLY * (work.read + work.written)
    return alone and limits.least(work).bound in (Bound.CACHE, Bound.MEMORY)


def measure(family: str, folder: Path, limits: Limits, seconds: float) -> list[Cell]:
    """Time every kernel of a prepared family."""
    grid = cases((family,))
    made = json.loads((folder / "made.json").read_text())
    found = []
    with load(folder / "out", threads=limits.threads) as artifact:
        count = len(grid)
        best = fastest(artifact, count + 1 + len(made["readers"]), seconds)
    call, plain = best[count], dict(zip(made["readers"], best[count + 1 :], strict=True))
    for number, (case, (template, flops), nanoseconds) in enumerate(
        zip(grid, made["kernels"], best[:count], strict=True)
    ):
        work = work_of(case)
        if flops is not None:
            work = replace(work, flops=flops)
        least = limits.least(work)
        limit, bound = least.seconds + call * 1e-9, least.bound.value
        if least.seconds < call * 1e-9:
            bound = CALL
        if number in plain:
            limit, bound = plain[number] * 1e-9, READ
        took = nanoseconds * 1e-9
        found.append(
            Cell(
                family, case.row, case.column, template, took, limit,
                bound, work.flops / took, str(date.today()),
            )
        )  # fmt: skip
    return found


def work_of(case: Case) -> Work:
    """What a case computes and moves."""
    price = cost(case.node)
    weights = sum(value.type.nbytes for value in case.job.body.inputs[1:])
    dtype = compute_dtype(case.node)
    return Work(price.flops, price.bytes_read, price.bytes_written, weights, dtype)


def fastest(artifact: Artifact, count: int, seconds: float) -> list[int]:
    """Nanoseconds of each kernel's fastest call."""
    best: dict[int, int] = {}
    for _ in range(BATCHES):
        for index in range(count):
            which = np.array(index, np.int32)
            once = float(np.median(artifact.bench(which, runs=3)))
            runs = int(min(20_000, max(5, seconds / BATCHES * 1e9 / max(once, 1.0))))
            (call,) = (
                k for k in artifact.profile(which, runs=runs).kernels if k.label == str(index)
            )
            best[index] = min(call.fastest_ns, best.get(index, call.fastest_ns))
    return [best[index] for index in range(count)]


def merged(path: Path, cells: Sequence[Cell]) -> list[Cell]:
    """What was measured before, with the new cells in place of old ones."""
    old = [Cell(**item) for item in json.loads(path.read_text())] if path.exists() else []
    kept = {cell.key: cell for cell in (*old, *cells)}
    path.write_text(json.dumps([asdict(cell) for cell in kept.values()], indent=1) + "\n")
    return list(kept.values())


HEAD = """# Kernels against the machine's limit

Command: `python -m benchmarks kernels` (`--prepare` first). Per cent of the least time that this
machine could need (`optc targets host --measure`): compute, cache or memory, or waking a thread,
whichever binds, and what a call of nothing takes (some 20 ns, the clock included). Each kernel is
called again and again by itself; its fastest call counts. Zero trials. A GEMM `N x K` multiplies M
rows of K by weights [N, K]. Operations are the kernel's own: a Winograd convolution does fewer than
its definition takes, so that it may be faster and yet further from its limit than a direct one.
What reading weights limits (GEMV, products of one or two rows) is held to a function beside it that
reads the same weights and does nothing else: what caches and memory give changes by the minute.
"""


def markdown(cells: Sequence[Cell]) -> str:
    """A grid where a family has columns, a list where it has one."""
    parts = [HEAD, f"{host().description}, {host().cores} threads", ""]
    for family in dict.fromkeys(cell.family for cell in cells):
        own = [cell for cell in cells if cell.family == family]
        columns = list(dict.fromkeys(cell.column for cell in own))
        parts += [f"## {family}", "", f"{', '.join(sorted({c.date for c in own}))}", ""]
        parts += _grid(own, columns) if len(columns) > 1 else _list(own)
        share = sum(c.limit for c in own) / sum(c.seconds for c in own)
        parts += ["", f"All together, by time: {share:.0%}.", ""]
    return "\n".join(parts)


def _grid(cells: Sequence[Cell], columns: Sequence[str]) -> list[str]:
    share = {(cell.row, cell.column): cell.limit / cell.seconds for cell in cells}
    lines = ["| M | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for row in dict.fromkeys(cell.row for cell in cells):
        values = (f"{share[row, c]:.0%}" if (row, c) in share else "" for c in columns)
        lines.append(f"| {row} | " + " | ".join(values) + " |")
    return lines


def _list(cells: Sequence[Cell]) -> list[str]:
    lines = ["| shape | template | µs | GOP/s | % of limit | bound |", "|" + "---|" * 6]
    for c in cells:
        numbers = f"{c.seconds * 1e6:.2f} | {c.speed * 1e-9:.1f} | {c.limit / c.seconds:.0%}"
        lines.append(f"| {c.row} | {c.template} | {numbers} | {c.bound} |")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Prepare or measure; table and picture hold what earlier runs measured, too."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kernels", description=__doc__)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--prepare", action="store_true", help="compile, nothing else")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of calls for each kernel")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "kernels")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    limits = limits_of(host(), host().cores, cache_folder())
    for family in options.families.split(","):
        folder = options.folder / family.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        if options.prepare or not (folder / "made.json").exists():
            prepare(family, folder, limits)
        if options.prepare:
            continue
        found = merged(
            options.results / "kernels.json", measure(family, folder, limits, options.seconds)
        )
        (options.results / "kernels.md").write_text(markdown(found))
        share = [cell.limit / cell.seconds for cell in found if cell.family == family]
        print(f"{family}: {len(share)} kernels, {np.median(share):.0%} of the limit in the middle")
    if not options.prepare:
        from benchmarks.kernel_picture import draw

        draw(found, options.results / "kernels.png")
    return 0
