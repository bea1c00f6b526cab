"""What a compilation knows from the user's data: calibration for passes, a judge, the last word.

The last word is on the artifact itself where this machine can run it, else on the compiled module,
run by the reference; either way on held-out samples that no pass has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optc.data.dataset import Dataset, Given, open_dataset
from optc.data.split import Split
from optc.exits import counted
from optc.ir.diagnostics import Diagnostic, OptcError, Severity, error
from optc.ir.module import Module
from optc.ir.structural import module_digest
from optc.passes.calibration import Calibration
from optc.passes.quality import Difference, Part, Verdict
from optc.quality.choose import check_metric, choose_metric
from optc.quality.judge import DataJudge, Progress
from optc.quality.metrics import (
    Accuracy,
    Against,
    Agreement,
    Custom,
    MeanSquaredError,
    Metric,
    Perplexity,
)
from optc.quality.originals import Originals
from optc.quality.runners import artifact_runner, ports_of, reference
from optc.runtime import load

NO_EXITS: Mapping[str, int] = {}
CLASSIFIED = (Accuracy, Agreement, Perplexity)  # their outputs are scores of classes


@dataclass(frozen=True, slots=True)
class DataRequest:
    """What a user says about data; see `open_dataset` and `choose_metric` for the texts.

    `budget` is the drop that is allowed: 0.01 is one point of a proportion, or one hundredth of the
    original's perplexity or mean squared error. Passes learn from `calibration` of every ten
    samples; with 10 none is left to judge by, which is for samples that are judged elsewhere.
    """

    data: Given
    labels: str | None = None
    metric: str | None = None
    budget: float | None = None
    limit: int | None = None
    seed: int = 0
    calibration: int = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """The last word: original against artifact on held-out samples, and who ran the artifact."""

    difference: Difference
    budget: float | None
    against: str  # what both were judged by
    ran: str  # `the artifact`, or why the reference did
    data: Mapping[str, Any] = field(default_factory=dict)
    exits: Mapping[str, int] = field(default_factory=dict)  # calls by the way they went

    @property
    def verdict(self) -> Verdict | None:
        """Whether the budget holds; None without one."""
        return None if self.budget is None else self.difference.verdict(self.budget)

    @property
    def finding(self) -> Diagnostic | None:
        """E0747 or W0748 where the budget does not hold or cannot be judged."""
        if self.budget is None or self.verdict is Verdict.HELD:
            return None
        lost = f"{self.difference.after.metric} drops by {self.difference}"
        allowed = f"--accuracy-drop {100 * self.budget:g}%"
        if self.verdict is Verdict.BROKEN:
            return Diagnostic(
                "E0747", f"{lost}, more than {allowed} allows", help="optc explain E0747"
            )
        samples = self.difference.after.samples
        return Diagnostic(
            "W0748",
            f"{lost}: whether {allowed} holds cannot be told from {samples} held-out samples",
            Severity.WARNING,
            help="give --data more samples",
        )


class Evidence:
    """Data opened for a captured module: what passes may ask, and the verdict at the end."""

    def __init__(self, module: Module, request: DataRequest, cache: Path | None = None) -> None:
        check_metric(request.metric)
        self.request = request
        split = Split(request.seed, request.calibration)
        ports = ports_of(module.inputs)
        self.data = open_dataset(
            request.data, ports, labels=request.labels, split=split, limit=request.limit
        )
        self.rule = metric_of(module, self.data, request.metric)
        if request.budget is not None:
            check_budget(self.rule)
        self.judge = DataJudge(
            reference(module), self.data, self.rule, request.budget, self._originals(module, cache)
        )
        self.calibration = self._calibration(cache)

    def _originals(self, module: Module, cache: Path | None) -> Originals | None:
        """What is known of the original; a metric of the user's may be another one tomorrow."""
        if cache is None or isinstance(self.rule, Custom):
            return None
        rule = f"{self.rule.label} {self.rule.output}"
        data = f"{self.data.facts.digest} {self.data.split} {self.data.limit}"
        subject = f"{module_digest(module)} {data} {rule} {version('torch')}"
        return Originals(cache / "originals", subject)

    def _calibration(self, cache: Path | None) -> Calibration:
        from optc.backends.reference.calibrate import ReferenceCalibration
        from optc.backends.reference.gradients import Loss, LossKind

        kind = LossKind.SQUARES
        if isinstance(self.rule, CLASSIFIED):
            kind = LossKind.CROSS_ENTROPY
        return ReferenceCalibration(
            self.data.part(Part.CALIBRATION),
            Loss(self.rule.output, kind, self.request.seed),
            cache / "calibration" if cache is not None else None,
        )

    def measure_artifact(
        self, path: Path, module: Module, progress: Progress | None = None
    ) -> Measured:
        """The last word on the artifact at `path`, made from the compiled `module`."""
        try:
            artifact = load(path, verify=False)
        except OptcError as problem:
            return self.measure_module(module, problem.diagnostics[0].message, progress)
        with artifact:
            run = artifact_runner(artifact)
            found = self.judge.compare_run(run, progress=progress)
            exits = counted(artifact, self.data.part(Part.HELD_OUT).calls)
            return self._measured(found, "the artifact", exits)

    def measure_module(
        self, module: Module, reason: str, progress: Progress | None = None
    ) -> Measured:
        """The last word on a compiled module, run by the reference for `reason`."""
        run = reference(module)
        found = self.judge.compare_run(run, progress=progress)
        return self._measured(found, f"the compiled graph in PyTorch: {reason}")

    def _measured(
        self, difference: Difference, ran: str, exits: Mapping[str, int] = NO_EXITS
    ) -> Measured:
        against = self.rule.against.value
        return Measured(difference, self.request.budget, against, ran, self.record(), exits)

    def record(self) -> dict[str, Any]:
        """What it takes to ask the same again, but for the samples themselves."""
        request = self.request
        asked = {"metric": request.metric, "accuracy_drop": request.budget, "limit": request.limit}
        return {**self.data.record(), **asked}


def metric_of(module: Module, data: Dataset, text: str | None) -> Metric:
    """The metric for a module on its data; raises what `choose_metric` raises."""
    labels = next(iter(data.part(Part.ALL))).labels if data.facts.labelled else None
    return choose_metric(text, ports_of(module.outputs), data.batch, labels)


def check_budget(metric: Metric) -> None:
    """Raise E0745 for a metric whose drop has no measure."""
    if isinstance(metric, MeanSquaredError) and metric.against is Against.ORIGINAL:
        raise error(
            "E0745",
            "the distance from the original's outputs is a share of nothing: no budget for it",
            help="--metric cosine",
        )
