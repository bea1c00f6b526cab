"""The analytic ranking of settings against measurements: `python -m benchmarks ranking`.

    python -m benchmarks ranking --prepare                  # compiles settings of every shape
    python -m benchmarks ranking                            # measures; on a quiet machine

A template lists its settings, the best guess first. Of each shape some are built, spread over the
list, and timed; Spearman says whether the list is in the order of time (1: it is), and
`first / best` what a build without tuning leaves on the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

from scipy.stats import spearmanr

from benchmarks.kernel_cases import Case, conv, linear, program
from benchmarks.kernels import fastest
from optc.backends.aot.package import write_artifact
from optc.backends.tvm.kernel import build
from optc.backends.tvm.templates import match
from optc.backends.tvm.templates.plan import Knobs, Plan, Problem
from optc.cli.options import cache_folder
from optc.ir.targets.detect import host
from optc.runtime import load

RESULTS = Path(__file__).parent / "results"
SETTINGS = 12  # of each shape, which may have over a hundred

SHAPES = (
    *(
        Case("gemm", f"{m}x{n}x{k}", "f32", linear(m, n, k))
        for m, n, k in (
            (1, 768, 768), (1, 1000, 2048), (3, 100, 100), (16, 384, 384), (64, 768, 768),
            (128, 384, 1536), (128, 768, 768), (197, 768, 192), (100, 1001, 513),
        )
    ),
    *(
        Case("conv", f"{c[0]}x{c[0]}x{c[1]} {c[3]}x{c[3]}/{c[4]} {c[2]}", "f32", conv(*c))
        for c in (
            (224, 3, 64, 7, 2), (56, 64, 64, 3, 1), (56, 64, 256, 1, 1), (28, 512, 128, 1, 1),
            (14, 256, 256, 3, 1), (14, 512, 512, 3, 2), (7, 2048, 512, 1, 1),
        )
    ),
    *(
        Case("depthwise", f"{s}x{s}x{c} {k}x{k}/{t}", "f32", conv(s, c, c, k, t, c))
        for s, c, k, t in ((112, 96, 3, 2), (56, 144, 3, 1), (14, 384, 3, 1), (56, 96, 7, 1))
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Ranked:
    """A shape: seconds of each measured setting by its place in the template's list."""

    family: str
    shape: str
    template: str
    listed: int
    seconds: dict[str, float]
    date: str

    @property
    def times(self) -> list[tuple[int, float]]:
        """Place and seconds, in the list's order."""
        return sorted((int(place), took) for place, took in self.seconds.items())

    @property
    def spearman(self) -> float:
        """Of place and time; 1 when the list is in the order of time, 0 of a single setting."""
        places, seconds = zip(*self.times, strict=True)
        return float(spearmanr(places, seconds).statistic) if len(places) > 2 else 0.0

    @property
    def first_over_best(self) -> float:
        """The time of the best guess over that of the best setting measured."""
        return self.times[0][1] / min(self.seconds.values())


def spread(count: int, wanted: int) -> list[int]:
    """Places of a list of `count`: the first, the last, and others evenly between."""
    if count <= wanted:
        return list(range(count))
    return sorted({round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})


def prepare(case: Case, folder: Path, settings: int) -> None:
    """Build some settings of a shape into one artifact."""
    job = case.job
    plan, _ = match(Problem(job.body, job.constants, host()))
    listed = plan.candidates()
    places = spread(len(listed), settings)

    def chosen(knobs: Knobs) -> object:
        def choose(_: object, __: Plan) -> Knobs:
            return knobs

        return build(job, host(), choose)

    kernels = [chosen(listed[place]) for place in places]
    made = program([(job, case.node)] * len(places), kernels, host())  # type: ignore[arg-type]
    write_artifact(made, folder / "out", cache=cache_folder())
    facts = {"template": plan.template, "listed": len(listed), "places": places}
    (folder / "facts.json").write_text(json.dumps(facts))


def measure(case: Case, folder: Path, seconds: float) -> Ranked:
    """Time the settings of a prepared shape."""
    facts = json.loads((folder / "facts.json").read_text())
    with load(folder / "out", threads=host().cores) as artifact:
        best = fastest(artifact, len(facts["places"]), seconds)
    times = {str(p): took * 1e-9 for p, took in zip(facts["places"], best, strict=True)}
    today = str(date.today())
    return Ranked(case.family, case.row, facts["template"], facts["listed"], times, today)


HEAD = """# The analytic ranking against measurements

Command: `python -m benchmarks ranking` (`--prepare` first). `Spearman`: of the place in the
template's list and the measured time, over settings spread over the list. `first / best`: the time
of the build without tuning over that of the fastest setting measured.
"""


def markdown(rows: Sequence[Ranked]) -> str:
    """A line for each shape, a summary for each template."""
    heads = "| template | shape | settings | measured | Spearman | first µs | first / best |"
    lines = [HEAD, f"{host().description}, {host().cores} threads", "", heads, "|" + "---|" * 7]
    for row in rows:
        first = row.times[0][1] * 1e6
        lines.append(
            f"| {row.template} | {row.shape} | {row.listed} | {len(row.seconds)} | "
            f"{row.spearman:.2f} | {first:.1f} | {row.first_over_best:.2f} |"
        )
    lines += ["", "| template | shapes | median Spearman | median first / best | worst |"]
    lines.append("|" + "---|" * 5)
    for template in dict.fromkeys(row.template for row in rows):
        own = [row for row in rows if row.template == template]
        several = [row.spearman for row in own if len(row.seconds) > 2]
        lost = [row.first_over_best for row in own]
        middle = f"{median(several):.2f}" if several else ""
        lines.append(
            f"| {template} | {len(own)} | {middle} | {median(lost):.2f} | {max(lost):.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Prepare or measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ranking", description=__doc__)
    parser.add_argument("--prepare", action="store_true", help="compile, nothing else")
    parser.add_argument("--settings", type=int, default=SETTINGS, help="of each shape")
    parser.add_argument("--seconds", type=float, default=0.06, help="of calls for each setting")
    parser.add_argument("--families", default="gemm,conv,depthwise")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "ranking")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    kept = options.results / "ranking.json"
    old = [Ranked(**item) for item in json.loads(kept.read_text())] if kept.exists() else []
    rows = {(row.family, row.shape): row for row in old}
    for case in (case for case in SHAPES if case.family in options.families.split(",")):
        folder = options.folder / case.family / case.row.replace(" ", "_").replace("/", "s")
        folder.mkdir(parents=True, exist_ok=True)
        if options.prepare or not (folder / "facts.json").exists():
            prepare(case, folder, options.settings)
        if not options.prepare:
            rows[case.family, case.row] = measure(case, folder, options.seconds)
    if not options.prepare:
        kept.write_text(json.dumps([asdict(row) for row in rows.values()]) + "\n")
        text = markdown(list(rows.values()))
        (options.results / "ranking.md").write_text(text)
        print(text)
    return 0
