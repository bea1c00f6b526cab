"""Variants of one model: compiled within a budget, judged on held-out samples, timed in turns.

What takes long is done once and kept: a folder for each variant has its artifact and, in
`facts.json`, what compiling it found. Times are of one process that calls all variants in turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import optc
from benchmarks.streaming import most_memory
from optc.backends.aot.build import Emit
from optc.cache import default_cache
from optc.data.dataset import open_dataset
from optc.driver import Compiled, Options, compile_module
from optc.ir.module import Module
from optc.ir.targets.target import Target
from optc.memory import parse_size
from optc.passes.calibration import Batches
from optc.passes.pipeline import Pipeline
from optc.passes.quality import Part, Verdict
from optc.quality.evidence import DataRequest, Evidence
from optc.quality.runners import ports_of
from optc.runtime import Artifact

Array = NDArray[Any]
WARM = 30
TIMES = "times.json"
DISTURBED = 5.0  # times the median of the first: something else ran, which says nothing of a model


@dataclass(frozen=True)
class Subject:
    """A model, samples with labels, and what is judged."""

    name: str
    module: Module
    data: Mapping[str, Array]
    metric: str

    def evidence(self, budget: float) -> Evidence:
        """The data opened for variants within one budget: the original runs once for them all."""
        request = DataRequest(dict(self.data), "labels", self.metric, budget)
        return Evidence(self.module, request, default_cache())

    @property
    def output(self) -> str | None:
        """The output that the metric names."""
        return self.metric.partition("@")[2] or None


@dataclass(frozen=True)
class Variant:
    """What is made of a model, within which budgets."""

    key: str
    passes: str = ""
    memory: str | None = None
    budget: float = 0.02

    def __str__(self) -> str:
        text = f"`{self.passes}`" if self.passes else "f32"
        return text + (f", `--memory {self.memory}`" if self.memory else "")


@dataclass(frozen=True)
class Facts:
    """What compiling found: the score of the original and of the variant, what it lost (each with
    its 95 % interval), and how many held-out calls went each way.
    """

    variant: Variant
    target: str
    original: tuple[float, float, float]
    score: tuple[float, float, float]
    lost: tuple[float, float, float]
    samples: int
    ran: str
    exits: Mapping[str, int]
    fit: str
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """Whether the budget holds."""
        _, low, high = self.lost
        if high <= self.variant.budget:
            return Verdict.HELD
        return Verdict.BROKEN if low > self.variant.budget else Verdict.OPEN

    @property
    def quality(self) -> str:
        """`88.18 (87.10 to 89.20)`, in percent."""
        value, low, high = (100 * number for number in self.score)
        return f"{value:.2f} ({low:.2f} to {high:.2f})"

    @property
    def drop(self) -> str:
        """`+0.14 (-0.22 to +0.49)`, in points."""
        value, low, high = (100 * number for number in self.lost)
        return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"

    def write(self, path: Path) -> None:
        """Keep them as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> Facts:
        """What `write` kept."""
        kept = json.loads(path.read_text())
        triples = {name: tuple(kept[name]) for name in ("original", "score", "lost")}
        return Facts(**{**kept, **triples, "variant": Variant(**kept["variant"])})


def is_prepared(variant: Variant, folder: Path) -> bool:
    """Whether what lies in the folder is this variant already."""
    kept = folder / variant.key / "facts.json"
    return kept.exists() and Facts.read(kept).variant == variant


def prepare(
    subject: Subject,
    evidence: Evidence,
    variant: Variant,
    folder: Path,
    target: Target,
    emit: tuple[Emit, ...] = (Emit.SHARED,),
) -> Compiled:
    """Compile a variant into its folder and keep what was found."""
    place = folder / variant.key
    place.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    options = Options(
        Pipeline.parse(variant.passes),
        emit=emit,
        cache=default_cache(),
        memory=parse_size(variant.memory) if variant.memory else None,
        judge_passes=False,
    )
    compiled = compile_module(subject.module, target, place / "out", options, evidence=evidence)
    facts_of(variant, target, compiled, time.perf_counter() - start).write(place / "facts.json")
    return compiled


def facts_of(variant: Variant, target: Target, compiled: Compiled, seconds: float) -> Facts:
    """What is kept of a compilation with data."""
    quality = compiled.quality
    assert quality is not None, "a variant is judged on data"
    before, after = quality.difference.before, quality.difference.after
    lost = quality.difference.interval
    return Facts(
        variant,
        target.name,
        (before.value, before.interval.low, before.interval.high),
        (after.value, after.interval.low, after.interval.high),
        (quality.difference.drop, lost.low, lost.high),
        after.samples,
        quality.ran,
        dict(quality.exits),
        compiled.fit.verdict if compiled.fit else "",
        seconds,
    )


def held_out(subject: Subject) -> Batches:
    """The samples that no pass has seen."""
    ports = ports_of(subject.module.inputs)
    return open_dataset(dict(subject.data), ports, labels="labels").part(Part.HELD_OUT)


@dataclass(frozen=True)
class Timed:
    """What a variant took in the run that timed them all: milliseconds and megabytes."""

    p50: float
    p99: float
    mean: float
    ratio: float  # of means, to the first variant's
    size: float  # weights and code, on disk
    planned: float  # process, code, weights, arena: what the manifest says
    counted: float  # the most that the system counted (VmHWM) in a C process, no exit taken


def timed(subject: Subject, variants: Sequence[Variant], folder: Path, calls: int) -> list[Timed]:
    """Call every variant in turns with each of `calls` held-out samples, evenly chosen."""
    places = [folder / variant.key / "out" for variant in variants]
    counted = [most_memory(place) for place in places]
    part = held_out(subject)
    chosen = set(np.linspace(0, part.calls - 1, min(calls, part.calls)).round().astype(int))
    inputs = [batch.inputs for number, batch in enumerate(part) if number in chosen]
    artifacts = [optc.load(place) for place in places]
    try:
        taken = in_turns(artifacts, inputs)
        return [
            _timed(*row, taken[:, 0].mean())
            for row in zip(artifacts, places, taken.T, counted, strict=True)
        ]
    finally:
        for artifact in artifacts:
            artifact.close()


def in_turns(artifacts: Sequence[Artifact], inputs: Sequence[Mapping[str, Array]]) -> Array:
    """Milliseconds [calls, artifacts], measured in C; calls that were disturbed are left out.

    Who comes after whom is drawn for each call: an artifact whose weights come from afar leaves
    other caches behind than one that is small.
    """
    for artifact in artifacts:
        artifact.bench(**inputs[0], runs=WARM)
    taken, draw = np.empty((len(inputs), len(artifacts))), np.random.default_rng(0)
    for row, given in zip(taken, inputs, strict=True):
        for number in draw.permutation(len(artifacts)):
            row[number] = int(artifacts[number].bench(**given, runs=1)[0])
    calm = (taken < DISTURBED * np.median(taken[:, 0])).all(1)
    found: Array = taken[calm] * 1e-6
    return found


def _timed(artifact: Artifact, place: Path, taken: Array, counted: int, first: float) -> Timed:
    manifest = artifact.manifest
    return Timed(
        float(np.percentile(taken, 50)),
        float(np.percentile(taken, 99)),
        float(taken.mean()),
        float(taken.mean() / first),
        sum((place / name).stat().st_size for name in ("weights.bin", "model.so")) / 1e6,
        (int(manifest["peak_bytes"]) + int(manifest["process_bytes"])) / 1e6,
        counted / 1e6,
    )


def write_times(variants: Sequence[Variant], found: Sequence[Timed], folder: Path) -> None:
    """Keep what one run measured, by the variants' keys."""
    kept = {variant.key: asdict(time) for variant, time in zip(variants, found, strict=True)}
    (folder / TIMES).write_text(json.dumps(kept, indent=1) + "\n")


def read_times(folder: Path) -> Mapping[str, Timed]:
    """What the last run measured; empty where there was none."""
    path = folder / TIMES
    kept = json.loads(path.read_text()) if path.exists() else {}
    return {key: Timed(**time) for key, time in kept.items()}
