"""Compile time against node count: `python -m benchmarks scaling`.

    python -m benchmarks scaling                      # 50 to 50,000 nodes
    python -m benchmarks scaling --nodes 500 --profile

Two families: `chain`, residual blocks one behind the other, and `branches`, blocks side by side
that are all alive until a sum at the end. Layers of one shape share a kernel, as in real models, so
what grows is the work on graphs: passes, fusion, planning, code, linking. Seconds are of the CPU,
ours and our children's, not of the clock: another busy process changes them little.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import platform
import pstats
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.scaling_samples import Sample
from optc.cli.options import cache_folder
from optc.driver import Options, compile_module
from optc.ir.builder import Builder
from optc.ir.constant import constant
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.module import module_of
from optc.ir.ops import LayerNorm, Linear, ew
from optc.ir.targets.detect import host
from optc.ir.types import TensorType

NODES = (50, 150, 500, 1500, 5000, 15000, 50000)
FITTED = 1400
RESULTS = Path(__file__).parent / "results"
WIDTH, PERIOD = 16, 4  # of rows; nodes of a block
X = TensorType((4, WIDTH), DType.F32)


def block(builder: Builder, x: Value, seed: int) -> Value:
    """Four nodes: a layer, an activation, the shortcut, a norm."""
    random = np.random.default_rng(seed)
    weight = builder.constant(constant(random.standard_normal((WIDTH, WIDTH), np.float32) / 4))
    ones = builder.constant(constant(np.ones(WIDTH, np.float32)))
    zeros = builder.constant(constant(np.zeros(WIDTH, np.float32)))
    y = builder.emit(ew.Relu(), builder.emit(Linear(), x, weight))
    return builder.emit(LayerNorm(), builder.emit(ew.Add(), x, y), ones, zeros)


def chain(nodes: int) -> Graph:
    """Blocks one behind the other."""
    builder = Builder()
    x = builder.input(X)
    for index in range(max(1, nodes // PERIOD)):
        x = block(builder, x, index)
    return builder.build([x])


def branches(nodes: int) -> Graph:
    """Blocks of one input, their results summed in a tree: many values are alive at once."""
    builder = Builder()
    x = builder.input(X)
    level = [block(builder, x, index) for index in range(max(1, nodes // (PERIOD + 1)))]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[len(level) - len(level) % 2 :]
        level = [builder.emit(ew.Add(), a, b) for a, b in pairs] + odd
    return builder.build(level)


FAMILIES: Mapping[str, Callable[[int], Graph]] = {"chain": chain, "branches": branches}


def seconds_used() -> float:
    """Of processors, by this process and by its children that have ended."""
    own, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


@dataclass
class Stages:
    """A progress callback that notes when each stage begins."""

    begun: list[tuple[str, float]] = field(default_factory=list)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note the first call of a stage."""
        if all(name != stage for name, _ in self.begun):
            self.begun.append((stage, seconds_used()))

    def seconds(self) -> dict[str, float]:
        """Of each stage, up to now for the last."""
        ends = [start for _, start in self.begun[1:]] + [seconds_used()]
        return {name: end - start for (name, start), end in zip(self.begun, ends, strict=True)}


def measure(family: str, nodes: int) -> Sample:
    """Compile a graph of about `nodes` nodes for this machine."""
    module = module_of(FAMILIES[family](nodes))
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder:
        options = Options(cache=cache_folder())
        made = compile_module(module, host(), Path(folder) / "out", options, progress=stages)
        seconds = stages.seconds()
        calls = sum(len(segment["calls"]) for segment in made.manifest["segments"])
    return Sample(family, len(module.graphs[0].nodes), calls, seconds)


def exponent(samples: Sequence[Sample]) -> float:
    """The slope of log time over log (n log n), by least squares: 1 is n log n.

    Over sizes from `FITTED` nodes on: what every compilation costs hides the slope below.
    """
    fitted = [sample for sample in samples if sample.nodes >= FITTED]
    work = [math.log(sample.nodes * math.log(sample.nodes)) for sample in fitted]
    slope, _ = np.polyfit(work, [math.log(sample.total) for sample in fitted], 1)
    return float(slope)


def markdown(samples: Sequence[Sample]) -> str:
    """A table for each family, stages side by side."""
    machine = host()
    parts = [HEAD, f"{date.today()}, {machine.description}, {platform.python_version()}", ""]
    for family in dict.fromkeys(sample.family for sample in samples):
        rows = [sample for sample in samples if sample.family == family]
        stages = list(rows[0].seconds)
        parts += [
            f"## {family}",
            "",
            "| nodes | kernel calls | " + " | ".join(stages) + " | all | µs a node |",
            "|" + "---|" * (len(stages) + 4),
        ]
        for row in rows:
            cells = [f"{row.seconds.get(stage, 0.0):.2f}" for stage in stages]
            each = f"{row.total / row.nodes * 1e6:.0f}"
            line = (str(row.nodes), str(row.calls), *cells, f"{row.total:.2f}", each)
            parts.append("| " + " | ".join(line) + " |")
        if sum(row.nodes >= FITTED for row in rows) > 1:
            fit = f"From {FITTED} nodes on, time grows as (n log n)^{exponent(rows):.2f}."
            parts += ["", fit, ""]
    return "\n".join(parts) + "\n"


HEAD = """# Compile time against node count

Command: `python -m benchmarks scaling`. Seconds of processors (ours and our children's) by stage.
`chain`: blocks of four nodes one behind the other; `branches`: blocks side by side, all alive until
a sum at the end. Layers share their kernels, so what grows is the work on graphs.
"""


def profile(family: str, nodes: int) -> None:
    """Print where the time goes."""
    watch = cProfile.Profile()
    watch.enable()
    measure(family, nodes)
    watch.disable()
    pstats.Stats(watch).sort_stats("tottime").print_stats(35)


def main(arguments: Sequence[str]) -> int:
    """Measure, add to what is kept, write table and picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=__doc__)
    parser.add_argument("--nodes", default=",".join(map(str, NODES)))
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    measure("chain", 50)  # imports, and kernels that the cache keeps
    samples = []
    for family in options.families.split(","):
        for nodes in map(int, options.nodes.split(",")):
            if options.profile:
                profile(family, nodes)
                continue
            start = time.perf_counter()
            samples.append(measure(family, nodes))
            print(f"{samples[-1]}  {time.perf_counter() - start:.1f} s", flush=True)
    if samples:
        every = merged(options.results / "scaling.json", samples)
        (options.results / "scaling.md").write_text(markdown(every))
        from benchmarks.scaling_picture import draw

        draw(every, options.results / "scaling.png")
    return 0


def merged(path: Path, samples: Sequence[Sample]) -> list[Sample]:
    """What earlier runs measured of other sizes, and this one's samples, by size."""
    old = [Sample(**item) for item in json.loads(path.read_text())] if path.exists() else []
    kept = {(sample.family, sample.nodes): sample for sample in (*old, *samples)}
    every = sorted(kept.values(), key=lambda sample: (sample.family, sample.nodes))
    path.write_text(json.dumps([asdict(sample) for sample in every], indent=1) + "\n")
    return every
