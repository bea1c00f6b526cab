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
from optc.ir.targets.catalogue import find_target
from optc.ir.targets.detect import host

RESULTS = Path(__file__).parent / "results" / "families.md"
F32 = Variant("f32")


@dataclass(frozen=True)
class Model:
    """Where a model and its samples come from, how many calls are timed, and its variants by
    family.
    """

    name: str
    subject: Callable[[Path], Subject]
    calls: int
    families: Mapping[str, tuple[Variant, ...]]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All of them, the plain artifact first."""
        return (F32, *(variant for found in self.families.values() for variant in found))


def carried(made: Callable[[Path], mixed_precision.Subject], folder: Path) -> Subject:
    """A model of `mixed_precision`, with its samples where the split will put them."""
    given = made(folder)
    data = given.data()
    with torch.no_grad():
        module = optc.capture(given.model, (torch.from_numpy(np.array(data[given.port][:1])),))
    (port,) = module.inputs
    data[port.name] = data.pop(given.port)
    return Subject(given.name, module, data, given.metric)


def _classifier(name: str, memory: str) -> Model:
    """A model of `together`, which shares its artifacts."""
    _, prune, exits, precision, whole = together.variants_of(name)
    families = {
        "Pruning": (prune,),
        "Precision": (precision,),
        "Early exits": (exits,),
        "Memory": (Variant("memory", "", memory),),
        "Together": (whole,),
    }
    way = together.SETTINGS[name]
    return Model(way.name, partial(together.subject_of, name), way.calls, families)


MODELS: Mapping[str, Model] = {
    "fashion": _classifier("fashion", "5MB"),
    "reviews": _classifier("reviews", "12MB"),
    "photos": Model(
        "EfficientNet-Lite0 photos",
        partial(carried, mixed_precision.photos),
        200,
        {
            "Precision": (Variant("precision", "quantize"),),
            "Memory": (Variant("memory", "", "16MB"),),
        },
    ),
    "lines": Model(
        "PP-OCRv4 lines",
        partial(carried, mixed_precision.text_lines),
        100,
        {
            "Pruning": (Variant("prune", "prune-channels{ratio=0.1},reconstruct-weights"),),
            "Precision": (Variant("precision", "quantize"),),
            "Memory": (Variant("memory", "", "10MB"),),
        },
    ),
}
FAMILIES = ("Pruning", "Precision", "Early exits", "Memory", "Together")
HEADS = (
    "model", "variant", "quality, % (95 %)", "lost, points (95 %)", "weights and code, MB",
    "peak, MB", "counted, MB", "p50, ms", "p99, ms", "mean, ms", "of f32",
)  # fmt: skip


def prepared(name: str, data: Path, folder: Path) -> None:
    """Compile the variants of a model that are not there yet."""
    missing = [v for v in MODELS[name].variants if not is_prepared(v, folder / name)]
    if not missing:
        return
    subject = MODELS[name].subject(data)
    evidence = subject.evidence(together.BUDGET)
    for variant in missing:
        prepare(subject, evidence, variant, folder / name, find_target("host"))
        together.said(folder / name / variant.key)


def measured(name: str, model: Model, data: Path, folder: Path) -> None:
    """Time every variant that is there; the page of `together` is of the same run."""
    there = [variant for variant in model.variants if is_prepared(variant, folder / name)]
    found = timed(model.subject(data), there, folder / name, model.calls)
    write_times(there, found, folder / name)


def rows(family: str, folder: Path) -> Iterator[list[str]]:
    """The lines of a family: of each model the plain artifact, then its variants."""
    for name, model in MODELS.items():
        chosen = model.families.get(family, ())
        times = read_times(folder / name)
        for variant in (F32, *chosen) if chosen else ():
            if variant.key not in times:
                continue
            facts = Facts.read(folder / name / variant.key / "facts.json")
            numbers = together.numbers(times[variant.key])
            yield [model.name, str(variant), facts.quality, facts.drop, *numbers]


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
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    folder = given.work.absolute()
    for name in given.models:
        if given.prepare:
            prepared(name, given.data, folder)
        else:
            measured(name, MODELS[name], given.data, folder)
    if not given.prepare:
        given.results.write_text(page(folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
