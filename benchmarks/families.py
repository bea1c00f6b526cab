"""One table for each family of passes, all with the same columns: `python -m benchmarks families`.

    python -m benchmarks families --data FOLDER --prepare    # compile and judge; resumes
    python -m benchmarks families --data FOLDER              # time what is there, write the tables

FOLDER as for `exit_models` and `quantize_models`. All variants of a model are compiled on the same
data within the same budget, and timed in turns in one run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch

import optc
from benchmarks import mixed_precision, together
from benchmarks.together import BOTH, F32, FEWER, Setting, variants_of
from benchmarks.variants import (
    Facts,
    Subject,
    Variant,
    is_prepared,
    prepare,
    read_times,
    timed,
    write_times,
)
from optc.ir.targets.detect import host
from optc.ir.targets.find import find_target

RESULTS = Path(__file__).parent / "results" / "families.md"


@dataclass(frozen=True)
class Model:
    """How a model is made small, and where it and at most so many samples come from."""

    way: Setting
    subject: Callable[[Path, int], Subject]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All of them, the plain artifact first."""
        return variants_of(self.way)


def carried(made: Callable[[Path], mixed_precision.Subject], folder: Path, samples: int) -> Subject:
    """A model of `mixed_precision`, with its samples where the split will put them."""
    given = made(folder)
    data = given.data(samples)
    with torch.no_grad():
        module = optc.capture(given.model, (torch.from_numpy(np.array(data[given.port][:1])),))
    (port,) = module.inputs
    data[port.name] = data.pop(given.port)
    return Subject(given.name, module, data, given.metric)


# No exits here: 294 photos are too few to confirm any (E0764), and lines are not classified.
MODELS: Mapping[str, Model] = {
    **{
        name: Model(way, partial(together.subject_of, name))
        for name, way in together.SETTINGS.items()
    },
    "photos": Model(
        Setting(
            "EfficientNet-Lite0 photos",
            "prune-channels{ratio=0.05,criterion=fit,spread=loss},reconstruct-weights",
            "",
            BOTH,
            "16MB",
            600,
            options=FEWER,
            within="16MB",
        ),
        partial(carried, mixed_precision.photos),
    ),
    "lines": Model(
        Setting(
            "PP-OCRv4 lines",
            "prune-channels{ratio=0.3,criterion=fit,spread=loss},reconstruct-weights",
            "",
            BOTH,
            "10MB",
            400,
            options=FEWER,
            within="11MB",
        ),
        partial(carried, mixed_precision.text_lines),
    ),
}
FAMILIES = ("Pruning", "Precision", "Early exits", "Memory", "Together")
HEADS = (
    "model", "variant", "quality, % (95 %)", "lost, points (95 %)", "weights and code, MB",
    "peak, MB", "counted, MB", "p50, ms", "p99, ms", "mean, ms", "of f32",
)  # fmt: skip


def prepared(
    name: str, data: Path, folder: Path, samples: int, only: Sequence[str] | None = None
) -> None:
    """Compile the variants of a model that are not there yet, or those of some keys."""
    wanted = [v for v in MODELS[name].variants if not only or v.key in only]
    missing = [v for v in wanted if not is_prepared(v, folder / name)]
    if not missing:
        return
    subject = MODELS[name].subject(data, samples)
    evidence = subject.evidence(together.BUDGET)
    for variant in missing:
        prepare(subject, evidence, variant, folder / name, find_target("host"))
        together.said(folder / name / variant.key)


def measured(name: str, model: Model, data: Path, folder: Path, samples: int) -> None:
    """Time every variant that is there; the page of `together` is of the same run."""
    there = [variant for variant in model.variants if is_prepared(variant, folder / name)]
    found = timed(model.subject(data, samples), there, folder / name, model.way.calls)
    write_times(there, found, folder / name)


def rows(family: str, folder: Path) -> Iterator[list[str]]:
    """The lines of a family: of each model the plain artifact, then its variants."""
    for name, model in MODELS.items():
        times = read_times(folder / name)
        chosen = [variant for variant in model.way.families[family] if variant.key in times]
        for variant in (F32, *chosen) if chosen else ():
            facts = Facts.read(folder / name / variant.key / "facts.json")
            numbers = together.numbers(times[variant.key])
            yield [model.way.name, str(variant), facts.quality, facts.drop, *numbers]


def page(folder: Path) -> str:
    """All tables."""
    machine = host()
    lines = [
        "# Four families of passes, and all together",
        "",
        f"{date.today()}, {machine.description}, {machine.cores} threads, batch 1: "
        "`python -m benchmarks families --data FOLDER --prepare`, then without `--prepare`.",
        "",
        together.COLUMNS,
    ]
    for family in FAMILIES:
        lines += ["", f"## {family}", "", "| " + " | ".join(HEADS) + " |"]
        lines += ["|" + "---|" * len(HEADS)]
        lines += ["| " + " | ".join(row) + " |" for row in rows(family, folder)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, or time and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/variants"))
    parser.add_argument("--samples", type=int, default=1 << 20, help="of each model, at most")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--only", action="append", help="prepare the variants of these keys")
    parser.add_argument("--table", action="store_true", help="write it from the last runs' times")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    folder = given.work.absolute()
    for name in given.models:
        if given.prepare:
            prepared(name, given.data, folder, given.samples, given.only)
        elif not given.table:
            measured(name, MODELS[name], given.data, folder, given.samples)
    if not given.prepare:
        given.results.write_text(page(folder) + together.seen(given.results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
