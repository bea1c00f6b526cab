"""Winograd convolutions beside direct ones: `python -m benchmarks winograd`.

    python -m benchmarks winograd --prepare     # compiles; a minute or two
    python -m benchmarks winograd               # measures; on a quiet machine

Both kernels of a shape are called in turns in one process, each by itself, so that weights are
where they were left: in a model they come from memory, which the choice between the two counts on.
`winograd_errors` measures what the points of the transforms cost in accuracy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from benchmarks.kernel_cases import Case, conv, program
from benchmarks.kernels import RESULTS, fastest
from optc.backends.aot.package import write_artifact
from optc.backends.kernel import Job
from optc.backends.tvm.kernel import KernelBuilder
from optc.backends.tvm.templates.conv_knobs import ConvKnobs
from optc.backends.tvm.templates.plan import Knobs, Plan
from optc.cli.options import cache_folder
from optc.ir.targets.detect import host
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from optc.runtime import load

# Size, channels in and out: ResNet, VGG, and sizes that no tile divides.
SHAPES = (
    (56, 64, 64), (28, 128, 128), (14, 256, 256), (7, 512, 512), (56, 128, 128), (14, 512, 512),
    (112, 24, 24), (35, 48, 64), (20, 40, 40), (13, 100, 100),
)  # fmt: skip
SECONDS = 0.1


@dataclass(frozen=True)
class Row:
    """A shape: what each way took, and the settings of Winograd's."""

    shape: tuple[int, int, int]
    direct: float
    winograd: float
    knobs: str
    chosen: bool


def machine_of(name: str) -> Target:
    """This machine, or it as one with fewer instructions."""
    here = host()
    return (
        here if name == "host" else replace(find_target(name), cores=here.cores, memory=here.memory)
    )


def prepare(name: str, folder: Path) -> None:
    """Both kernels of every shape in one artifact."""
    machine = machine_of(name)
    plain = replace(machine, winograd=False)
    grid = [Case("conv", str(shape), "f32", conv(*shape, 3, 1)) for shape in SHAPES]
    jobs = [case.job for case in grid]

    def always(job: Job, plan: Plan) -> Knobs | None:
        candidates = plan.candidates()
        return next((knobs for knobs in candidates if not isinstance(knobs, ConvKnobs)), None)

    first = KernelBuilder(plain).build(jobs)
    second = KernelBuilder(machine, choose=always).build(jobs)
    picked = KernelBuilder(machine).build(jobs)
    chosen = [kernel.template.startswith("winograd") for kernel in picked]
    both = [kernel for pair in zip(first, second, strict=True) for kernel in pair]
    cases = [(case.job, case.node) for case in grid for _ in range(2)]
    write_artifact(program(cases, both, machine), folder / "out", cache=cache_folder())
    facts = [[kernel.template, kernel.knobs] for kernel in second]
    (folder / "made.json").write_text(json.dumps([facts, chosen]))


def measure(folder: Path, seconds: float) -> list[Row]:
    """Time what was prepared."""
    facts, chosen = json.loads((folder / "made.json").read_text())
    with load(folder / "out", threads=host().cores) as artifact:
        times = [1e-9 * t for t in fastest(artifact, 2 * len(SHAPES), seconds)]
    return [
        Row(shape, times[2 * i], times[2 * i + 1], knobs, chosen[i])
        for i, (shape, (template, knobs)) in enumerate(zip(SHAPES, facts, strict=True))
        if template.startswith("winograd")
    ]


HEAD = """# Winograd convolutions beside direct ones

Command: `python -m benchmarks winograd{option}` (`--prepare` first). 3x3, one image, f32; the
fastest call of each, in turns in one process, weights where the last call left them. `taken`: what
a compilation chooses, which counts on weights from memory, as they are in a model.
{machine}, {threads} threads, {date}.

| image, channels | direct µs | Winograd µs | ratio | F | taken |
|---|---|---|---|---|---|
"""


def markdown(rows: Sequence[Row], name: str) -> str:
    """The table."""
    option = "" if name == "host" else f" --target {name}"
    here = host()
    text = HEAD.format(
        option=option, machine=here.description, threads=here.cores, date=date.today()
    )
    for row in rows:
        size, into, out = row.shape
        sizes = row.knobs.split("height=")[1].split(",")
        tile = f"{sizes[0]}x{sizes[1].split('=')[1]}"
        taken = "Winograd" if row.chosen else "direct"
        text += (
            f"| {size}x{size} {into}->{out} | {row.direct * 1e6:.0f} | {row.winograd * 1e6:.0f} | "
            f"{row.direct / row.winograd:.2f} | {tile} | {taken} |\n"
        )
    return text


def main(arguments: Sequence[str]) -> int:
    """Prepare or measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks winograd", description=__doc__)
    parser.add_argument("--prepare", action="store_true", help="compile, nothing else")
    parser.add_argument("--target", default="host", help="fewer instructions: x86-64-v3")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of calls for each kernel")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    folder = cache_folder() / "winograd" / options.target
    folder.mkdir(parents=True, exist_ok=True)
    if options.prepare or not (folder / "made.json").exists():
        prepare(options.target, folder)
    if options.prepare:
        return 0
    suffix = "" if options.target == "host" else f"-{options.target}"
    table = markdown(measure(folder, options.seconds), options.target)
    (options.results / f"winograd{suffix}.md").write_text(table)
    print(table)
    return 0
