"""What passes around quantization give on trained models: equalised ranges, smoothed activations,
corrected biases and observers, in int8 and with 4-bit weights.

    python -m benchmarks.quantize_scaling CASE --data FOLDER [--limit N] [--passes P] [--write]

FOLDER as for `quantize_models`. The reference runs what integers will compute; scores are of
held-out samples, each beside the float model's. All calibration samples are learnt from.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import optc
from benchmarks.prune_models import context
from benchmarks.prune_quality import SEEN, changed, judged
from benchmarks.quantize_data import CASES, Case, example
from optc.ir.targets.detect import host
from optc.passes.base import run_passes
from optc.passes.pipeline import Pipeline
from optc.passes.standard import CANONICALIZE, RAISE
from optc.quality.evidence import DataRequest, Evidence

RESULTS = Path(__file__).parent / "results" / "quantize_scaling.md"
FOUR = "quantize-weights{bits=4,group=0}"  # a scale per output channel
PASSES = (
    "quantize",
    "quantize{observer=minmax}",
    "quantize{observer=percentile}",
    "quantize,correct-biases",
    "equalize-ranges,quantize",
    "smooth-activations,quantize",
    FOUR,
    f"{FOUR},correct-biases",
    f"equalize-ranges,{FOUR}",
    f"equalize-ranges,{FOUR},correct-biases",
)
HEADER = (
    "| model | samples | passes | score | lost, points (95 %) | changed answers | SQNR, dB |"
    " layers scaled or corrected |\n|---|---|---|---|---|---|---|---|"
)


def rows(case: Case, pipelines: Sequence[str]) -> Iterator[str]:
    """A line for each pipeline."""
    with torch.no_grad():
        captured = optc.capture(case.model.eval(), example(case))
    ports = [port.name for port in captured.inputs]
    data = dict(zip(ports, case.calibration.values(), strict=True))
    evidence = Evidence(captured, DataRequest(data, calibration=10))
    whole = run_passes(captured, (*CANONICALIZE, *RAISE), context())
    old, wanted = judged(case, whole)
    for text in pipelines:
        ctx = context(host(), evidence.calibration, evidence.judge)
        new, found = judged(case, Pipeline.parse(text).run(whole, ctx))
        lost = (old - new).reshape(-1, case.together).mean(1)
        noise = float(((wanted - found) ** 2).mean()) or 1e-30
        told = sum(finding.code in ("N0334", "N0336") for finding in ctx.diagnostics)
        cells = (
            case.name,
            str(len(old)),
            f"`{text}`",
            f"{100 * old.mean():.2f} to {100 * new.mean():.2f}",
            f"{100 * lost.mean():+.2f} ± {196 * lost.std() / np.sqrt(len(lost)):.2f}",
            f"{100 * changed(wanted, found):.1f} %",
            f"{10 * np.log10(float(np.var(wanted)) / noise):.1f}",
            str(told),
        )
        yield "| " + " | ".join(cells) + " |"


def write(row: str) -> None:
    """Put a row into the table, in the place of that of the same model and passes."""
    old = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    kept = {_key(line): line for line in old if line.startswith("| ") and "`" in line}
    kept[_key(row)] = row
    head = (
        "# What passes around quantization give\n\n"
        f"{datetime.now(UTC).date().isoformat()}, {host().description}:"
        " `python -m benchmarks.quantize_scaling CASE --data FOLDER --limit SAMPLES --write`, run"
        " by the reference. Lost beside the float model on the same held-out samples.\n\n"
    )
    lines = sorted(kept.values(), key=lambda line: line.split(" | ")[0])
    _, mark, seen = RESULTS.read_text().partition(SEEN) if RESULTS.exists() else ("", "", "")
    RESULTS.write_text(head + "\n".join([HEADER, *lines]) + "\n" + mark + seen)


def _key(line: str) -> tuple[str, str]:
    cells = line.split(" | ")
    return cells[0], cells[2]


def main() -> None:
    """Print rows; with `--write` also into the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--passes", action="append")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    case = CASES[given.case](given.data).apart().first(given.limit)
    for row in rows(case, given.passes or PASSES):
        print(row, flush=True)
        if given.write:
            write(row)


if __name__ == "__main__":
    main()
