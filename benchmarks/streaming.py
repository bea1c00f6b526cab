"""Streaming table: models under budgets of a half, a quarter and an eighth of what they need.

    python -m benchmarks streaming [MODEL ...] --prepare    # compile
    python -m benchmarks streaming [MODEL ...]              # run what is compiled, write the table

Each artifact is run by a C program of its own, whose peak of resident memory (VmHWM) the system
counts; outputs are compared bit for bit with those of mapped weights, and by their largest
difference where layers are computed in parts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import optc
from benchmarks.models import MODELS
from optc.backends.aot.package import write_artifact
from optc.backends.assemble import assemble
from optc.backends.kernel import BuildKernels
from optc.backends.tvm.builder import kernel_builder
from optc.cli.options import cache_folder
from optc.driver import Options, lower_module
from optc.inputs import random_arrays
from optc.ir.diagnostics import OptcError
from optc.ir.module import Module
from optc.ir.targets.detect import host
from optc.measured_passes import building_once
from optc.memory import fitted
from optc.runtime import load

RESULTS = Path(__file__).parent / "results"
MAPPED = "mapped"
SHARES = (2, 4, 8)
RUNS, TURNS = 10, 3
STANDARD = ("minilm-l6", "resnet50", "bert-base", "gpt2")


@dataclass(frozen=True)
class Run:
    """What the system said: kilobytes before loading and at most, milliseconds, the digest."""

    before: int
    most: int
    fastest: float
    digest: str


def built(artifact: Path) -> Path:
    """The C program for an artifact, beside it."""
    prefix = f"-DPREFIX={_manifest(artifact)['prefix']}"
    source = Path(__file__).with_name("high_water.c")
    program = artifact.with_name(f"{artifact.name}-high-water")
    library = (str(artifact / "model.so"), f"-Wl,-rpath,{artifact}")
    command = ("gcc", "-O1", prefix, f"-I{artifact}", str(source), *library)
    subprocess.run((*command, "-o", str(program)), check=True)
    return program


def runs(artifacts: Sequence[Path]) -> list[Run]:
    """Each artifact in turns: the most memory and the least time; digests must not change."""
    programs = [(str(built(artifact)), str(artifact), str(RUNS)) for artifact in artifacts]
    found: list[list[Run]] = [[] for _ in artifacts]
    for _ in range(TURNS):
        for program, seen in zip(programs, found, strict=True):
            done = subprocess.run(program, check=True, capture_output=True, text=True)
            before, most, fastest, digest = done.stdout.split()
            seen.append(Run(int(before), int(most), float(fastest), digest))
    return [
        Run(
            max(run.before for run in seen),
            max(run.most for run in seen),
            min(run.fastest for run in seen),
            " ".join({run.digest for run in seen}),
        )
        for seen in found
    ]


def most_memory(artifact: Path) -> int:
    """Bytes that the system counts at most (VmHWM) for a C process which runs it to the end."""
    states = _manifest(artifact)["states"]
    never = [state["name"] for state in states if state.get("parameter")]
    command = (str(built(artifact)), str(artifact), str(RUNS), *never)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[1]) * 1024


def prepare(name: str, folder: Path) -> None:
    """Write an artifact for mapped weights and for each budget; equal kernels are built once."""
    model, inputs = MODELS[name].make()
    builder = kernel_builder(Options(memory=1).machine(host()))
    module, build = optc.capture(model, inputs), building_once(builder.build)
    mapped = folder / name / MAPPED
    whole = _write(module, build, 1 << 62, mapped)
    for share in SHARES:
        artifact = folder / name / f"of-{share}"
        try:
            _write(module, build, needed(whole) // share, artifact)
        except OptcError as problem:
            words = problem.diagnostics[0].message.partition(";")[0]
            _refusal(artifact).write_text(words)
        else:
            _difference(artifact).write_text(str(difference(mapped, artifact)))


def _write(module: Module, build: BuildKernels, budget: int, artifact: Path) -> Any:
    options = Options(memory=budget)
    target = options.machine(host())
    program = assemble(lower_module(module, target, options, build=build), build, target)
    within, _ = fitted(program, budget)
    return write_artifact(within, artifact, cache=cache_folder()).manifest


def difference(first: Path, second: Path) -> float:
    """The largest difference of two artifacts' results, as a share of their range."""
    with load(first) as one, load(second) as other:
        inputs = random_arrays(one.inputs, 0)
        pairs = zip(_arrays(one(**inputs)), _arrays(other(**inputs)), strict=True)
        return max(float(np.abs(a - b).max() / np.ptp(a)) for a, b in pairs)


def _arrays(result: Any) -> Iterator[np.ndarray]:
    """What a call returned, as nested as the model returns it."""
    if isinstance(result, np.ndarray):
        yield result
    else:
        for item in result.values() if isinstance(result, dict) else result:
            yield from _arrays(item)


def needed(manifest: Any) -> int:
    """Bytes that a process needs which does nothing but run the artifact."""
    return int(manifest["peak_bytes"]) + int(manifest["process_bytes"])


def rows(name: str, folder: Path) -> Iterator[list[str]]:
    """A line for mapped weights, and one for each budget."""
    place = folder / name
    artifacts = [place / MAPPED, *(place / f"of-{share}" for share in SHARES)]
    there = [artifact for artifact in artifacts if artifact.exists()]
    found = dict(zip(there, runs(there), strict=True))
    first, manifest = found[artifacts[0]], _manifest(artifacts[0])
    yield [*_row(name, None, manifest, first, first), "same bits"]
    for share, artifact in zip(SHARES, artifacts[1:], strict=True):
        budget = needed(manifest) // share
        if artifact in found:
            row = _row(name, share, _manifest(artifact), found[artifact], first, budget)
            same = found[artifact].digest == first.digest
            differ = float(_difference(artifact).read_text())
            yield [*row, "same bits" if same else f"in parts, within {differ:.0e}"]
        else:
            yield [name, f"1/{share}: {budget / 1e6:.1f}", _refusal(artifact).read_text()]


def _refusal(artifact: Path) -> Path:
    return artifact.with_suffix(".txt")


def _difference(artifact: Path) -> Path:
    return artifact.with_suffix(".difference")


def _manifest(artifact: Path) -> Any:
    return json.loads((artifact / "manifest.json").read_text())


def _row(
    name: str, share: int | None, manifest: Any, found: Run, first: Run, budget: int = 0
) -> list[str]:
    plan = manifest.get("stream", {})
    most = found.most * 1024
    return [
        name,
        f"1/{share}: {budget / 1e6:.1f}" if share else "none",
        f"{manifest['weights_bytes'] / 1e6:.1f}",
        f"{plan.get('window_bytes', 0) / 1e6:.1f}" if plan else "",
        f"{manifest['peak_bytes'] / 1e6:.1f}",
        f"{found.before * 1024 / 1e6:.1f}",
        f"{most / 1e6:.1f}",
        ("yes" if most <= budget else "NO") if share else "",
        f"{found.fastest:.1f}",
        f"{found.fastest / first.fastest:.2f}",
    ]


HEADS = (
    "model", "budget", "weights", "window", "planned peak", "VmHWM before", "VmHWM", "within",
    "fastest ms", "of mapped", "outputs",
)  # fmt: skip


def table(found: Sequence[Sequence[str]]) -> str:
    """The page."""
    machine = host()
    lines = [
        f"{date.today()}, {machine.description}, {machine.cores} cores; "
        "`python -m benchmarks streaming --prepare`, then `streaming`; megabytes; the weights are "
        f"in the page cache; in turns, fastest of {TURNS} times {RUNS} runs.",
        "",
        "A budget is a share of all that mapped weights need, process and code included. `VmHWM` "
        "is the whole C process as the system counts it, `before` what it had before it loaded the "
        "model. Results are those of mapped weights; where layers are computed in parts to fit, "
        "the largest difference stands as a share of the results' range.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|" + "---|" * len(HEADS),
        *("| " + " | ".join([*row, *[""] * (len(HEADS) - len(row))]) + " |" for row in found),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, or run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(STANDARD))
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("build/streaming"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    if options.prepare:
        for name in options.models:
            prepare(name, folder)
        return 0
    found: list[list[str]] = []
    for name in options.models:
        for row in rows(name, folder):
            print(" | ".join(row), flush=True)
            found.append(row)
    (options.results / "memory_streaming.md").write_text(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
