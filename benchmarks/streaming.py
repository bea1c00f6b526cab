"""Streaming table: models under budgets of a half, a quarter and an eighth of what they need.

    python -m benchmarks.streaming [MODEL ...] [--out F]

Each artifact is run by a C program of its own, whose peak of resident memory (VmHWM) the system
counts; outputs are compared bit for bit with those of mapped weights.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import optc
from benchmarks.models import MODELS
from optc.driver import Compiled
from optc.ir.diagnostics import OptcError
from optc.ir.targets.detect import host

SHARES = (2, 4, 8)
RUNS = 10
STANDARD = ("minilm-l6", "bert-base", "gpt2", "resnet50")


@dataclass(frozen=True)
class Run:
    """What the system said: kilobytes before loading and at most, milliseconds, the digest."""

    before: int
    most: int
    fastest: float
    digest: str


def run(compiled: Compiled, folder: Path) -> Run:
    """Compile the C program beside the artifact and run it."""
    source = Path(__file__).with_name("high_water.c")
    prefix = f"-DPREFIX={compiled.manifest['prefix']}"
    library = (str(compiled.path / "model.so"), f"-Wl,-rpath,{compiled.path}")
    command = ("gcc", "-O1", prefix, f"-I{compiled.path}", str(source), *library)
    program = folder / "high_water"
    subprocess.run((*command, "-o", str(program)), check=True)
    done = subprocess.run(
        (str(program), str(compiled.path), str(RUNS)), check=True, capture_output=True, text=True
    )
    before, most, fastest, digest = done.stdout.split()
    return Run(int(before), int(most), float(fastest), digest)


def rows(name: str, folder: Path) -> Iterator[list[str]]:
    """A line for mapped weights, and one for each budget."""
    model, inputs = MODELS[name].make()
    module = optc.capture(model, inputs)
    mapped = optc.compile(module, out=folder / "mapped")
    needed = int(mapped.manifest["peak_bytes"]) + int(mapped.manifest["process_bytes"])
    first = run(mapped, folder)
    yield _row(name, "none", mapped, first, first)
    for share in SHARES:
        budget = needed // share
        try:
            compiled = optc.compile(module, out=folder / f"of-{share}", memory=budget)
        except OptcError as problem:
            yield [name, f"{budget / 1e6:.1f}", problem.diagnostics[0].message.split(";")[0]]
            continue
        yield _row(name, f"{budget / 1e6:.1f}", compiled, run(compiled, folder), first)


def _row(name: str, budget: str, compiled: Compiled, found: Run, first: Run) -> list[str]:
    plan = compiled.manifest.get("stream", {})
    return [
        name,
        budget,
        f"{compiled.manifest['peak_bytes'] / 1e6:.1f}",
        f"{plan.get('window_bytes', 0) / 1e6:.1f}" if plan else "",
        f"{found.before * 1024 / 1e6:.1f}",
        f"{found.most * 1024 / 1e6:.1f}",
        f"{found.fastest:.1f}",
        f"{found.fastest / first.fastest:.2f}",
        "same bits" if found.digest == first.digest else "DIFFERENT",
    ]


HEADS = (
    "model", "budget, MB", "planned peak", "window", "VmHWM before", "VmHWM", "fastest ms",
    "of mapped", "outputs",
)  # fmt: skip


def main() -> None:
    """Print the table, and write it where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(STANDARD))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        f"{date.today()}, {host().description}, {host().cores} cores; "
        "`python -m benchmarks.streaming`; megabytes; the weights are in the page cache; fastest "
        f"of {RUNS} runs.",
        "",
        "A budget is a share of all that mapped weights need, process and code included. `VmHWM` "
        "is the whole C process, `before` what it had before it loaded the model.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|" + "---|" * len(HEADS),
    ]
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(name, Path(folder)):
                lines.append("| " + " | ".join(row + [""] * (len(HEADS) - len(row))) + " |")
                print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
