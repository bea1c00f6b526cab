"""`optc run`: an artifact on given or random inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from optc.cli.inputs import read_arrays, write_arrays
from optc.cli.options import (
    apply_threshold,
    cache_folder,
    check_memory,
    memory_option,
    threads_option,
    threshold_option,
)
from optc.cli.terminal import console, plain_table
from optc.inputs import call, random_arrays
from optc.ir.diagnostics import error
from optc.ir.output import check_writable
from optc.report.numbers import shape_text
from optc.runtime import load


@click.command("run")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "-i",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Inputs by name; `optc inspect OUT` shows the names, shapes and dtypes.",
)
@click.option(
    "--output",
    "-o",
    "output",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Where the outputs go, by name; without it their range is shown.",
)
@click.option(
    "--random", "seed", type=click.IntRange(0), metavar="SEED", help="Random inputs instead."
)
@threads_option()
@memory_option("Refuse an artifact that needs more.")
@threshold_option()
def run_command(
    artifact: Path,
    source: Path | None,
    output: Path | None,
    seed: int | None,
    threads: int,
    memory: int | None,
    threshold: str | None,
) -> None:
    """Run ARTIFACT, a folder or a .optc file, once on the inputs of a .npz file, or random ones."""
    if (source is None) == (seed is None):
        raise error("E0703", "give the inputs, once", help=f"optc run {artifact} --input x.npz")
    if output is not None:
        check_writable(output)
    check_memory(artifact, memory)
    with load(artifact, threads=threads, cache=cache_folder() / "artifacts") as model:
        inputs = (
            read_arrays(source) if source is not None else random_arrays(model.inputs, seed or 0)
        )
        apply_threshold(model, threshold)
        results = call(model, inputs)
        left = [name for name, count in model.exit_runs().items() if count]
        exits = bool(model.exits)
    if output is not None:
        write_arrays(output, results)
    _show(results)
    if exits:
        console().print(f"left by {left[0]}" if left else "went to the end: no exit was taken")


def _show(results: Mapping[str, NDArray[Any]]) -> None:
    table = plain_table("output", "type", "min", "mean", "max", numbers=("min", "mean", "max"))
    for name, array in results.items():
        numbers = array.astype(np.float64) if array.size else np.zeros(1)
        facts = (f"{value:.6g}" for value in (numbers.min(), numbers.mean(), numbers.max()))
        table.add_row(name, shape_text(array.shape, array.dtype.name), *facts)
    console().print(table)
