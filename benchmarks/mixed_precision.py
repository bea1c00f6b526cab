"""Mixed 4/8-bit plans for trained models: how small within a budget, beside int8 and naive 4 bits.

    python -m benchmarks.mixed_precision --data FOLDER [photos] [lines] [--write]

FOLDER as for `quantize_models`. Three tenths of the samples are for calibration and search, the
others for the held-out check and the last word, which the artifacts are judged by; all views of a
photo are on one side.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

import optc
from benchmarks.models import trained
from benchmarks.models.carried import ocr_lines
from benchmarks.quantize_data import VIEWS, Array, classes_of, lines, photo, photo_files
from optc.cache import default_cache
from optc.contexts import pass_context
from optc.data.split import Split
from optc.driver import Compiled, Options, compile_module
from optc.inspect import inspect_module
from optc.ir.module import Module
from optc.ir.targets.find import find_target
from optc.passes.base import run_passes
from optc.passes.pipeline import Pipeline
from optc.passes.quality import Difference, Part
from optc.passes.standard import CANONICALIZE, RAISE
from optc.quality.evidence import DataRequest, Evidence

BUDGET = 0.02
RESULTS = Path(__file__).parent / "results" / "mixed_precision.md"
NAIVE = "quantize-weights{bits=4,group=0}"  # all weights, a scale per channel
PASSES = (
    "",
    "quantize",
    NAIVE,
    "assign-precision{objective=size}",
    "assign-precision",
)
HEADER = (
    "| model | passes | held-out samples | score | lost, points (95 %) | budget of 2 points |"
    " weights.bin, kB | ms, median | plan |\n|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Subject:
    """A model with labelled samples: for passes to learn from, and held out."""

    name: str
    model: nn.Module
    port: str
    metric: str
    learning: tuple[Array, Array]
    held_out: tuple[Array, Array]

    def data(self, most: int = 1 << 20) -> dict[str, Array]:
        """Both parts in one of at most so many, each sample where the split will put it."""
        count = min(len(self.learning[0]) * 10 // 3, len(self.held_out[0]) * 10 // 7, most)
        count = count // 10 * 10
        mask = Split(0).mask(0, count, Part.CALIBRATION)
        found = {}
        for name, mine, others in zip(
            (self.port, "labels"), self.learning, self.held_out, strict=True
        ):
            joined = np.empty((count, *mine.shape[1:]), mine.dtype)
            joined[mask], joined[~mask] = mine[: mask.sum()], others[: (~mask).sum()]
            found[name] = joined
        return found


def photos(folder: Path) -> Subject:
    """EfficientNet-Lite0 on 123 photos in 8 views each: 37 to learn from, 86 held out."""
    named = photo_files(folder)[0]
    order = np.random.default_rng(0).permutation(len(named))
    images = np.stack([[photo(named[n], view) for view in VIEWS] for n in order])
    truth = np.stack([[classes_of(named[n])] * len(VIEWS) for n in order])
    parts = [(images[a:b], truth[a:b]) for a, b in ((0, 37), (37, None))]
    learning, held_out = ((x.reshape(-1, *x.shape[2:]), y.reshape(-1, 4)) for x, y in parts)
    net = trained.efficientnet_lite0()[0]
    metric = "benchmarks.quantize_data:right_photos"
    return Subject("EfficientNet-Lite0", net, "inputs", metric, learning, held_out)


def text_lines(folder: Path) -> Subject:
    """PP-OCRv4's recogniser on drawn lines: 300 to learn from, 700 held out."""
    x, truth = lines(folder, 1000)
    metric = "benchmarks.quantize_data:right_signs"
    halves = (x[:300], truth[:300]), (x[300:], truth[300:])
    return Subject("PP-OCRv4 lines", ocr_lines()[0], "x", metric, *halves)


SUBJECTS: Mapping[str, Callable[[Path], Subject]] = {"photos": photos, "lines": text_lines}


def rows(subject: Subject, pipelines: list[str]) -> Iterator[str]:
    """One line for each pipeline; times are of one process, artifacts in turns."""
    data = subject.data()
    with torch.no_grad():
        example = torch.from_numpy(data[subject.port][:1])
        captured = optc.capture(subject.model, (example,))
    (port,) = captured.inputs
    data[port.name] = data.pop(subject.port)
    request = DataRequest(data, "labels", subject.metric, BUDGET)
    with tempfile.TemporaryDirectory() as folder:
        compiled = []
        for number, text in enumerate(pipelines):
            if text == NAIVE:
                yield _naive(subject, captured, request)
                continue
            start = time.perf_counter()
            options = Options(
                Pipeline.parse(text), data=request, cache=default_cache(), judge_passes=False
            )
            place = Path(folder, str(number))
            compiled.append(compile_module(captured, find_target("host"), place, options))
            for finding in compiled[-1].diagnostics:
                if finding.code in ("N0333", "W0316"):
                    print(f"    {finding.message}", flush=True)
            print(f"    compiled in {time.perf_counter() - start:.0f} s", flush=True)
        times = medians([item.path for item in compiled], data[port.name][0:1])
        built = [text for text in pipelines if text != NAIVE]
        for text, item, median in zip(built, compiled, times, strict=True):
            yield _row(subject, text, item, median)


def _naive(subject: Subject, captured: Module, request: DataRequest) -> str:
    """Judged as a graph: nobody would want the kernels."""
    evidence = Evidence(captured, request)
    ctx = pass_context(find_target("host"), evidence=evidence)
    passes = (*CANONICALIZE, *RAISE, *Pipeline.parse(NAIVE).passes)
    module = run_passes(captured, passes, ctx)
    lost = evidence.judge.compare(module)
    stored = inspect_module(module).weight_bytes
    verdict = lost.verdict(BUDGET).value
    cells = [subject.name, f"`{NAIVE}`", *_lost(lost), verdict, f"{stored / 1e3:.0f}", "", "all"]
    return "| " + " | ".join(cells) + " |"


def _lost(lost: Difference) -> list[str]:
    low, high = 100 * lost.interval.low, 100 * lost.interval.high
    change = f"{100 * lost.drop:+.2f} ({low:+.2f} to {high:+.2f})"
    return [str(lost.after.samples), f"{100 * lost.after.value:.2f}", change]


def medians(paths: list[Path], sample: Array, rounds: int = 60) -> list[float]:
    """Milliseconds of each artifact, called in turns."""
    artifacts = [optc.load(path) for path in paths]
    taken: list[list[float]] = [[] for _ in artifacts]
    for _ in range(rounds):
        for artifact, seconds in zip(artifacts, taken, strict=True):
            start = time.perf_counter()
            artifact(sample)
            seconds.append(time.perf_counter() - start)
    return [1e3 * float(np.median(seconds[5:])) for seconds in taken]


def _row(subject: Subject, text: str, item: Compiled, median: float) -> str:
    assert item.quality is not None
    lost = item.quality.difference
    said = [d.message for d in item.diagnostics if d.code == "N0333"]
    cells = [
        subject.name,
        f"`{text}`" if text else "none: f32",
        *_lost(lost),
        item.quality.verdict.value if item.quality.verdict else "",
        f"{(item.path / 'weights.bin').stat().st_size / 1e3:.0f}",
        f"{median:.2f}",
        said[-1].partition(": ")[0] if said else "",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table; with `--write` also into the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--passes", action="append")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    found = []
    for name in given.subjects:
        for row in rows(SUBJECTS[name](given.data), given.passes or list(PASSES)):
            print(row, flush=True)
            found.append(row)
    if given.write:
        head = (
            "# Mixed precision within a budget\n\n"
            f"{datetime.now(UTC).date().isoformat()}, {find_target('host').description}, torch"
            f" {torch.__version__}, {platform.machine()}:"
            " `python -m benchmarks.mixed_precision --data FOLDER --write`. Artifacts judged on"
            " held-out samples, sample by sample beside f32; times in turns in one process.\n\n"
        )
        RESULTS.write_text(head + "\n".join([HEADER, *found]) + "\n")


if __name__ == "__main__":
    main()
