"""What static int8 loses on trained models: artifacts, judged sample by sample.

    python -m benchmarks.quantize_models --data FOLDER [CASE ...] [--passes PIPELINE] [--limit N]

FOLDER holds `vaderSentiment-0.5.zip`, `usr/share/datasets/fashion-mnist` and
`usr/share/tuxpaint/stamps` (see `models/exiting.py` and `quantize_data.py`). Each pipeline is
compiled for the target, which this machine must be able to run. `--limit` judges on fewer samples;
`--write` puts the table into `results/quantize.md`.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import optc
from benchmarks.quantize_data import CASES, Array, Case, example
from optc.backends.reference.fold import evaluate_constants
from optc.cache import default_cache
from optc.driver import Options, compile_module
from optc.inputs import call
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Target
from optc.passes.base import PassContext, run_passes
from optc.passes.pipeline import Pipeline
from optc.passes.standard import CANONICALIZE, LOWER, RAISE
from optc.quality.evidence import DataRequest, Evidence

PASSES = ("quantize", "quantize{observer=minmax}", "quantize{observer=percentile}")
RESULTS = Path(__file__).parent / "results" / "quantize.md"
HEADER = (
    "| model | samples | passes | score | drop, points | changed answers | SQNR, dB | weights, kB |"
    " layers |\n|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """One pipeline on one model; scores and outputs of both, sample by sample."""

    case: Case
    passes: str
    before: tuple[Array, Array]
    after: tuple[Array, Array]
    size: tuple[int, int]
    layers: str

    def __str__(self) -> str:
        (old, wanted), (new, found) = self.before, self.after
        lost = old - new
        things = lost.reshape(-1, self.case.together).mean(1)
        error = 1.96 * things.std() / np.sqrt(len(things))
        changed = np.mean((wanted.argmax(-1) != found.argmax(-1)).reshape(len(wanted), -1).any(1))
        noise = float(np.mean((wanted - found) ** 2)) + 1e-30
        ratio = 10 * np.log10(float(np.mean((wanted - wanted.mean()) ** 2)) / noise)
        cells = [
            self.case.name,
            str(len(old)),
            f"`{self.passes}`",
            f"{100 * old.mean():.2f} to {100 * new.mean():.2f}",
            f"{100 * lost.mean():+.2f} ± {100 * error:.2f}",
            f"{100 * changed:.1f} %",
            f"{ratio:.1f}",
            f"{self.size[0] / 1e3:.0f} to {self.size[1] / 1e3:.0f}",
            self.layers,
        ]
        return "| " + " | ".join(cells) + " |"


def rows(case: Case, pipelines: list[str], target: str) -> Iterator[Row]:
    """The model under each pipeline, beside the float model."""
    with torch.no_grad():
        captured = optc.capture(case.model, example(case))
    names = [port.name for port in captured.inputs]
    calibration = dict(zip(names, case.calibration.values(), strict=True))
    evidence = Evidence(captured, DataRequest(calibration, calibration=10))
    plain = PassContext(
        find_target(target), evaluate=evaluate_constants, calibration=evidence.calibration,
        judge=evidence.judge,
    )  # fmt: skip
    module = run_passes(captured, (*CANONICALIZE, *RAISE), plain)
    machine = find_target(target)
    before = judged(case, module, machine)
    for text in pipelines:
        ctx = replace(plain, diagnostics=[])
        passes = Pipeline.parse(text).passes
        changed = run_passes(module, passes, ctx)
        integers = run_passes(changed, LOWER, ctx)
        said = [d.message for d in ctx.diagnostics if d.code == "N0331"]
        layers = said[0].split(" layers")[0] if said else "0"
        after = judged(case, changed, machine)
        yield Row(case, text, before, after, (size(module), size(integers)), layers)


def judged(case: Case, module: Module, target: Target) -> tuple[Array, Array]:
    """Scores and first outputs of all held-out samples, by the artifact."""
    count = len(next(iter(case.held_out.values())))
    outputs = []
    with tempfile.TemporaryDirectory() as folder:
        path = compile_module(
            module, target, Path(folder, "o"), Options(cache=default_cache())
        ).path
        artifact = optc.load(path)
        for start in range(0, count - case.batch + 1, case.batch):
            arrays = [array[start : start + case.batch] for array in case.held_out.values()]
            names = [port.name for port in module.inputs]
            found = call(artifact, dict(zip(names, map(np.ascontiguousarray, arrays), strict=True)))
            outputs.append(next(iter(found.values())))
    joined = np.concatenate(outputs)
    return case.score(joined), joined


def size(module: Module) -> int:
    """Bytes of the constants, splats left out."""
    items = {id(c): c for graph in module.graphs for c in graph.constants.values()}
    return sum(item.type.nbytes for item in items.values() if item.splat is None)


def main() -> None:
    """Print the table; with `--write` also into the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--passes", action="append")
    parser.add_argument("--target", default="host")
    parser.add_argument("--limit", type=int, help="samples of each model to judge on")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    lines = [HEADER]
    print(HEADER)
    for name in given.cases:
        start = time.perf_counter()
        case = CASES[name](given.data)
        if given.limit:
            case = case.first(given.limit)
        for row in rows(case, given.passes or list(PASSES), given.target):
            lines.append(str(row))
            print(row, flush=True)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if given.write:
        write(lines[1:], head_of(vars(given)))


def write(rows_: list[str], head: str) -> None:
    """Put rows into the results, in the place of those of the same model and passes."""
    old = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    found = {_key(line): line for line in old if line.startswith("| ") and "`" in line}
    found |= {_key(line): line for line in rows_}
    RESULTS.write_text(head + "\n".join([HEADER, *found.values()]) + "\n")


def _key(line: str) -> tuple[str, str]:
    cells = line.split(" | ")
    return cells[0], cells[2]


def head_of(given: Mapping[str, object]) -> str:
    """What the table is, and how it was made."""
    when = datetime.now(UTC).date().isoformat()
    command = f"python -m benchmarks.quantize_models --data FOLDER --target {given['target']}"
    return (
        f"# What quantization loses\n\n{when}, artifacts on {platform.machine()} (torch"
        f" {torch.__version__} for calibration): `{command} --write`, with `--limit` for the"
        " samples named. A drop is the mean over samples that both models saw, with its 95 %"
        " interval; views of one photo count as one.\n\n"
    )


if __name__ == "__main__":
    main()
