"""What a compilation knows from the user's data: calibration for passes, a judge, the last word.

The last word is on the artifact itself where this machine can run it, else on the compiled module,
run by the reference; either way on held-out samples that no pass has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from optc.arrays import Tensor
from optc.data.dataset import Dataset, Given, open_dataset
from optc.data.labels import Labels
from optc.data.pair import Pair, paired
from optc.data.split import STRATUM, Split
from optc.exits import counted
from optc.ir.diagnostics import Diagnostic, OptcError, Severity, error
from optc.ir.module import Module
from optc.ir.structural import module_digest
from optc.passes.base import Effect, Pass
from optc.passes.calibration import Batch, Calibration
from optc.passes.quality import Difference, Part, Verdict
from optc.quality.choose import check_metric, choose_metric, without_labels
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
    With `calibration_data`, a set of its own, they learn from all of that, and all of `data` is to
    judge by; `calibration_labels` are beside it as `labels` beside `data`. `limit` is of each set.
    """

    data: Given
    labels: str | None = None
    metric: str | None = None
    budget: float | None = None
    limit: int | None = None
    seed: int = 0
    calibration: int = 3
    calibration_data: Given | None = None
    calibration_labels: str | None = None

    def unspent(self, passes: Sequence[Pass]) -> tuple[Diagnostic, ...]:
        """W0754 where there is a budget that none of the passes asked for spends."""
        if self.budget is None or any(step.effect is Effect.LOSSY for step in passes):
            return ()
        finding = Diagnostic(
            "W0754",
            f"nothing spends --accuracy-drop {100 * self.budget:g}%: no pass of this compilation "
            "changes what the model computes",
            Severity.WARNING,
            help="-p assign-precision",
        )
        return (finding,)


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
        self.data, self.parts = _opened(request, ports_of(module.inputs))
        self.rule = metric_of(module, self.data, request.metric)
        if request.budget is not None:
            check_budget(self.rule)
        self.diagnostics: list[Diagnostic] = self.parts.findings()
        blind = self._beside(module, self.parts) if isinstance(self.parts, Pair) else None
        kept = self._originals(module, cache)
        self.judge = DataJudge(
            reference(module), self.parts, self.rule, request.budget, kept, blind
        )
        self.calibration = self._calibration(cache)

    def _beside(self, module: Module, sets: Pair) -> Metric | None:
        """What judges calibration samples without labels; checks the labels of those with."""
        if self.rule.against is Against.ORIGINAL:
            return None
        if sets.learning.facts.labelled:
            _check_labels(self.rule, module, next(iter(sets.part(Part.CALIBRATION))))
            return None
        blind, name = without_labels(self.rule), sets.learning.source.name
        if blind is None:
            raise error(
                "E0744",
                f"{self.rule.label} needs labels, and the samples of {name} have none",
                help="--calibration-labels labels.npy",
            )
        self.diagnostics.append(
            Diagnostic(
                "N0753",
                f"{name} has no labels: passes are judged by {blind.label} on it",
                Severity.REMARK,
            )
        )
        return blind

    def _originals(self, module: Module, cache: Path | None) -> Originals | None:
        """What is known of the original; a metric of the user's may be another one tomorrow."""
        if cache is None or isinstance(self.rule, Custom):
            return None
        rule = f"{self.rule.label} {self.rule.output}"
        split, limit = self.data.split, self.data.limit
        data = f"{self.data.facts.digest} {split} {limit}"
        data = f"{self.parts.digest} {limit}" if isinstance(self.parts, Pair) else data
        subject = f"{module_digest(module)} {data} {rule} {version('torch')}"
        return Originals(cache / "originals", subject)

    def _calibration(self, cache: Path | None) -> Calibration:
        from optc.backends.reference.calibrate import ReferenceCalibration
        from optc.backends.reference.gradients import Loss, LossKind

        kind = LossKind.SQUARES
        if isinstance(self.rule, CLASSIFIED):
            kind = LossKind.CROSS_ENTROPY
        return ReferenceCalibration(
            self.parts.part(Part.CALIBRATION),
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
            exits = counted(artifact, self.parts.part(Part.HELD_OUT).calls)
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

    def names(self) -> dict[str, str]:
        """The data in the artifact's manifest: the first digits of the digests."""
        record = self.parts.record()
        sets = {"data": record, "calibration_data": record.get("calibration_data")}
        return {name: facts["digest"][:16] for name, facts in sets.items() if facts}

    def record(self) -> dict[str, Any]:
        """What it takes to ask the same again, but for the samples themselves."""
        request = self.request
        asked = {"metric": request.metric, "accuracy_drop": request.budget, "limit": request.limit}
        return {**self.parts.record(), **asked}


def _opened(request: DataRequest, ports: Sequence[Tensor]) -> tuple[Dataset, Dataset | Pair]:
    """The set that judges, and the parts: of it alone, or of it and the set to learn from."""
    separate = request.calibration_data is not None
    split = Split(request.seed, 0 if separate else request.calibration)
    data = open_dataset(
        request.data, ports, labels=request.labels, split=split, limit=request.limit
    )
    if request.calibration_data is None:
        return data, data
    learning = open_dataset(
        request.calibration_data,
        ports,
        labels=_beside_labels(request),
        split=Split(request.seed, STRATUM),
        limit=request.limit,
    )
    return data, paired(learning, data)


def _beside_labels(request: DataRequest) -> str | Labels | None:
    """As asked; else the array that is called as that of the other set, where there is one."""
    if request.calibration_labels is not None or request.labels is None:
        return request.calibration_labels
    labels = Labels.named(request.labels)
    return None if labels.file is not None else replace(labels, asked=False)


def _check_labels(rule: Metric, module: Module, batch: Batch) -> None:
    """Raise E0744 for labels that the metric cannot take, before passes learn from them."""
    ports = [port for port in ports_of(module.outputs) if port.name == rule.output]
    if isinstance(rule, Custom) or batch.labels is None:
        return
    zeros = {port.name: np.zeros(port.shape, np.float32) for port in ports}
    whole = {name: array[None] for name, array in zeros.items()}
    rows = {name: array[: batch.valid] for name, array in zeros.items()}
    rule.rows(whole if batch.size is None else rows, batch.labels[: batch.valid])


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
