"""The model table: every model compiled, checked against PyTorch and timed beside it in one run.

    python -m benchmarks.model_table [MODEL ...] [--targets aarch64,cuda] [--out F] [--layers F]

`--layers` writes a second table: every product and convolution of each model, with its share of
what the machine can do at most (`optc bench` measures that).
"""

from __future__ import annotations

import argparse
import gc
import platform
import re
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import optc
from benchmarks.models import MODELS
from optc.bench import KernelRow, kernel_rows
from optc.cli.options import cache_folder
from optc.driver import Options, compile_module
from optc.ir.targets.detect import host
from optc.ir.targets.find import find_target
from optc.limits import limits_of

PRODUCT = re.compile("conv|linear|mat_mul|matmul")
ROUNDS = 7  # of each contender, in turns; PyTorch's pool gets time to sleep between them
QUIET = 0.3  # seconds of sleep before the other contender is timed: thread pools spin for a while


@dataclass
class Row:
    """One model's line."""

    model: str
    error: float = float("nan")
    capture: float = float("nan")
    compile: float = float("nan")
    megabytes: float = float("nan")
    ours: float = float("nan")
    torch: float = float("nan")
    others: dict[str, str] = field(default_factory=dict)
    layers: tuple[KernelRow, ...] = ()
    problem: str = ""

    def cells(self, targets: Sequence[str]) -> list[str]:
        """The line's cells as text."""
        if self.problem:
            return [self.model, self.problem, *[""] * (7 + len(targets))]
        return [
            self.model,
            f"{self.error:.1e}",
            f"{self.capture:.1f}",
            f"{self.compile:.1f}",
            f"{self.megabytes:.1f}",
            f"{self.ours:.2f}",
            f"{self.torch:.2f}",
            f"{self.torch / self.ours:.2f}",
            share_of_limit(self.layers),
            *(self.others.get(name, "") for name in targets),
        ]


def share_of_limit(layers: Sequence[KernelRow]) -> str:
    """What the layers reach together: the least time they could take, of the time they take."""
    seconds = sum(row.seconds for row in layers)
    return f"{sum(row.limit for row in layers) / seconds:.0%}" if seconds else ""


def flat(tree: Any) -> list[torch.Tensor]:
    """The tensors of a nested output, in torch's order."""
    return [
        leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)
    ]


def largest_error(found: Sequence[np.ndarray], expected: Sequence[torch.Tensor]) -> float:
    """Largest difference as a share of the output's range; integers must be equal."""
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        reference = theirs.detach().to(torch.float64).numpy()
        span = max(float(np.ptp(reference)), float(np.abs(reference).max()), 1e-30)
        worst = max(worst, float(np.abs(np.asarray(ours, np.float64) - reference).max()) / span)
    return worst


def milliseconds(run: Callable[[], object], seconds: float = 0.25) -> float:
    """Median of repeated calls over about `seconds`."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure(name: str, targets: Sequence[str], folder: Path) -> Row:
    """Compile one model for the host and the other targets, check it and time it."""
    row = Row(name)
    model, inputs = MODELS[name].make()
    start = time.perf_counter()
    module = optc.capture(model, inputs)
    row.capture = time.perf_counter() - start
    start = time.perf_counter()
    compiled = compile_module(module, host(), folder / name, Options())
    row.compile = time.perf_counter() - start
    row.megabytes = (
        sum(compiled.manifest["files"][f]["bytes"] for f in compiled.manifest["files"]) / 1e6
    )
    artifact = optc.load(compiled.path)
    arrays = [tensor.numpy() for tensor in inputs]
    with torch.inference_mode():
        expected = flat(model(*inputs))
    artifact.reset()
    found = artifact(*arrays)
    row.error = largest_error(
        [np.asarray(x) for x in torch.utils._pytree.tree_leaves(found)], expected
    )
    ours, theirs = [], []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            time.sleep(QUIET)
            ours.append(
                float(
                    np.median(
                        artifact.bench(
                            *arrays, runs=max(3, int(100 / max(row.ours, 1)) if ours else 5)
                        )
                    )
                )
                / 1e6
            )
            row.ours = ours[-1]
            time.sleep(QUIET)
            theirs.append(milliseconds(lambda: model(*inputs)))
    row.ours, row.torch = min(ours), min(theirs)
    profile = artifact.profile(*arrays, runs=max(5, int(200 / max(row.ours, 1))))
    limits = limits_of(host(), host().cores, cache_folder())
    rows = kernel_rows(profile.kernels, limits)
    row.layers = tuple(item for item in rows if PRODUCT.search(item.label.partition(" ")[0]))
    for target in targets:
        row.others[target] = other(module, target, folder / f"{name}-{target}")
    return row


def layer_lines(row: Row) -> list[str]:
    """The layers of a model, equal ones as one line, the longest first."""
    groups: dict[tuple[str, str], list[KernelRow]] = {}
    for item in row.layers:
        groups.setdefault((item.label.partition(" @ ")[0], item.kernel), []).append(item)
    lines = []
    for (label, _), items in sorted(
        groups.items(), key=lambda pair: -sum(i.seconds for i in pair[1])
    ):
        milliseconds = 1e3 * sum(item.seconds for item in items)
        cells = (row.model, label, str(len(items)), f"{milliseconds:.3f}", share_of_limit(items))
        lines.append("| " + " | ".join((*cells, items[0].least.bound.value)) + " |")
    return lines


def other(module: Any, target: str, out: Path) -> str:
    """Seconds to compile for another target, or what went wrong."""
    start = time.perf_counter()
    try:
        compile_module(module, find_target(target), out, Options())
    except Exception as problem:  # the table says which model fails where
        return f"{type(problem).__name__}: {str(problem).splitlines()[0][:60]}"
    return f"{time.perf_counter() - start:.1f} s"


def main() -> None:
    """Print the table, and write it where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--targets", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--layers", type=Path)
    options = parser.parse_args()
    targets = [name for name in options.targets.split(",") if name]
    torch.set_num_threads(host().cores)
    heads = [
        "model",
        "error / range",
        "capture s",
        "compile s",
        "MB",
        "optc ms",
        "torch ms",
        "ratio",
        "products: % of limit",
    ]
    machine, ours = host(), version("optc")
    lines = [
        f"{date.today()}, {machine.description}, {machine.cores} cores, {platform.system()};"
        f" torch {torch.__version__}, optc {ours}; batch 1;"
        f" best of {ROUNDS} medians, in turns",
        "",
        "| " + " | ".join(heads + targets) + " |",
        "|" + "---|" * (len(heads) + len(targets)),
    ]
    print("\n".join(lines), flush=True)
    layers = [lines[0], "", "| model | layer | times | ms | % of limit | bound |", "|" + "---|" * 6]
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = measure(name, targets, Path(folder))
            except Exception as problem:  # one model's failure is a line of the table
                traceback.print_exc()
                row = Row(
                    name, problem=f"{type(problem).__name__}: {str(problem).splitlines()[0][:80]}"
                )
        lines.append("| " + " | ".join(row.cells(targets)) + " |")
        print(lines[-1], flush=True)
        layers += layer_lines(row)
        gc.collect()
    for path, text in ((options.out, lines), (options.layers, layers)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
