"""`optc eval`: how good a model or an artifact is on data, and what it loses to another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optc.cli.data import data_options
from optc.cli.failures import show
from optc.cli.options import (
    apply_threshold,
    cache_folder,
    capture_options,
    check_memory,
    is_artifact,
    memory_option,
    read_module,
    threads_option,
    threshold_option,
)
from optc.cli.progress import Progress
from optc.cli.terminal import console, plain_table
from optc.ir.diagnostics import Diagnostic, Severity, error

if TYPE_CHECKING:
    from optc.arrays import Tensor
    from optc.data.dataset import Dataset
    from optc.passes.quality import Difference, Part, Quality
    from optc.quality.evidence import DataRequest
    from optc.quality.metrics import Metric
    from optc.quality.runners import Runner

PARTS = ("all", "held-out", "calibration")


class Subject:
    """Something that can be run: its ports, and what its lock says about the data it was made with.

    `data` is empty for a model, and for an artifact without data.
    """

    def __init__(
        self,
        run: Runner,
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        data: Mapping[str, Any],
    ) -> None:
        self.run, self.inputs, self.outputs, self.data = run, inputs, outputs, data

    def saw(self, data: Dataset) -> bool:
        """Whether these samples were given when it was compiled, to learn from and be judged on."""
        return self.data.get("digest") == data.facts.digest

    def learnt_all(self, data: Dataset) -> bool:
        """Whether passes learnt from all of these samples."""
        separate = self.data.get("calibration_data", {})
        return bool(separate) and separate.get("digest") == data.facts.digest


@click.command("eval")
@click.argument("model", type=click.Path(path_type=Path))
@data_options
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="OTHER",
    help="The original, a model or an artifact: show what MODEL loses to it, sample by sample.",
)
@click.option(
    "--part",
    type=click.Choice(PARTS),
    help="Which samples; without it the held-out ones for an artifact that was compiled with this "
    "data, else all.",
)
@threads_option()
@memory_option("Refuse an artifact that needs more.")
@threshold_option()
@capture_options
def eval_command(
    model: Path,
    request: DataRequest | None,
    against: Path | None,
    part: str | None,
    threads: int,
    memory: int | None,
    threshold: str | None,
    shape: str,
    unsafe_load: bool,
    example: Path | None,
) -> None:
    """Measure MODEL on data: a .pt2, a graph in text form (both in PyTorch), or an artifact."""
    if request is None:
        raise error("E0703", "give the data", help=f"optc eval {model} --data test.npz")
    check_memory(model, memory)
    capture = (shape, unsafe_load, example)
    with Progress() as progress:
        progress("reading", 0, 0)
        with _subject(model, threads, *capture, threshold=threshold) as subject:
            progress("data", 0, 0)
            data, metric = _data(subject, request, against)
            chosen = _part(part, data, subject)
            found: Quality | Difference
            if against is None:
                found = _quality(subject, data, metric, chosen, progress)
            else:
                with _subject(against, threads, *capture) as other:
                    found = _difference(subject, other, data, metric, chosen, progress)
    _show(found, metric, data, chosen)


@contextmanager
def _subject(
    path: Path,
    threads: int,
    shape: str,
    unsafe_load: bool,
    example: Path | None,
    threshold: str | None = None,
) -> Iterator[Subject]:
    from optc.quality.runners import artifact_runner, ports_of, reference
    from optc.runtime import load

    if not is_artifact(path):
        if threshold is not None:
            raise error("E0766", f"--threshold is for artifacts, {path} is a model")
        module = read_module(path, shape, unsafe_load, example)
        ports = ports_of(module.inputs), ports_of(module.outputs)
        yield Subject(reference(module), *ports, {})
        return
    with load(path, threads=threads, cache=cache_folder() / "artifacts") as artifact:
        apply_threshold(artifact, threshold)
        run = artifact_runner(artifact)
        yield Subject(run, artifact.inputs, artifact.outputs, _data_of(artifact.path))


def _data_of(folder: Path) -> Mapping[str, Any]:
    """What an artifact's lock says about the data it was compiled with."""
    try:
        lock: dict[str, Any] = json.loads((folder / "lock.json").read_text())
        return dict(lock.get("data", {}))
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _data(subject: Subject, request: DataRequest, against: Path | None) -> tuple[Dataset, Metric]:
    from optc.data.dataset import open_dataset
    from optc.data.split import Split
    from optc.passes.quality import Part
    from optc.quality.choose import choose_metric
    from optc.quality.metrics import Against

    data = open_dataset(
        request.data,
        subject.inputs,
        labels=request.labels,
        split=Split(request.seed),
        limit=request.limit,
    )
    if subject.saw(data):
        data = data.divided(Split(**subject.data["split"]))
    if subject.learnt_all(data):
        show(_learnt_from(data, subject.data["source"]))
    for finding in data.findings():
        show(finding)
    labels = next(iter(data.part(Part.ALL))).labels if data.facts.labelled else None
    metric = choose_metric(request.metric, subject.outputs, data.batch, labels)
    if metric.against is Against.ORIGINAL and against is None:
        raise error(
            "E0749",
            f"{metric.name} without labels compares with an original",
            help="--labels labels.npy, or --against model.pt2",
        )
    return data, metric


def _learnt_from(data: Dataset, source: str) -> Diagnostic:
    return Diagnostic(
        "W0752",
        f"passes of the artifact learnt from {data.source.name}: it may be better on these samples "
        "than on others",
        Severity.WARNING,
        help=f"--data {source}, which it was judged on",
    )


def _part(text: str | None, data: Dataset, subject: Subject) -> Part:
    from optc.passes.quality import Part

    if text is not None:
        return Part(text)
    return Part.HELD_OUT if subject.saw(data) else Part.ALL


def _quality(
    subject: Subject, data: Dataset, metric: Metric, part: Part, progress: Progress
) -> Quality:
    from optc.quality.judge import evaluate

    return evaluate(
        subject.run, data.part(part), metric, lambda *state: progress("evaluating", *state)
    )


def _difference(
    subject: Subject,
    other: Subject,
    data: Dataset,
    metric: Metric,
    part: Part,
    progress: Progress,
) -> Difference:
    from optc.quality.judge import DataJudge

    if [str(p) for p in subject.inputs] != [str(p) for p in other.inputs]:
        raise error("E0724", "the two models have different inputs", help="optc inspect both")
    if metric.output not in [port.name for port in other.outputs]:
        raise error("E0724", f"the other model has no output {metric.output!r}")
    judge = DataJudge(other.run, data, metric)
    return judge.compare_run(subject.run, part, lambda *state: progress("evaluating", *state))


def _show(found: Quality | Difference, metric: Metric, data: Dataset, part: Part) -> None:
    from optc.passes.quality import Difference
    from optc.report.quality import difference_text, quality_text

    numbers = ("samples",)
    table = plain_table("", "value", "95 % interval", "samples", "interval by", numbers=numbers)
    if isinstance(found, Difference):
        rows = [("original", found.before), ("model", found.after)]
    else:
        rows = [("model", found)]
    for name, quality in rows:
        facts = str(quality.samples), quality.interval.method
        table.add_row(f"{quality.metric}, {name}", *quality_text(quality), *facts)
    if isinstance(found, Difference):
        facts = str(found.after.samples), found.interval.method
        table.add_row("lost", *difference_text(found), *facts)
    console().print(table)
    which = "all samples" if part.value == "all" else f"the {part.value} part"
    console().print(
        f"judged by {metric.against.value} of {metric.output!r}, on {which} of {data.source.name}"
    )
