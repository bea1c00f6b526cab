"""Judges candidates: the metric on a part of the data, paired with the original model.

The original runs once for each part. Of it are kept two numbers a sample and, where it is the truth
itself, what the metric compares with; that lies in a temporary file.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from optc.data.dataset import PartOfData
from optc.ir.diagnostics import error
from optc.ir.module import Module
from optc.passes.calibration import Batch, Batches
from optc.passes.quality import Difference, Part, Quality
from optc.quality.metrics import Accuracy, Against, Agreement, Array, Metric
from optc.quality.originals import Originals
from optc.quality.runners import Runner, reference
from optc.quality.tally import Rows, Tally

Progress = Callable[[int, int], None]  # samples done, of how many


class Spool:
    """Arrays in a temporary file, in order; as many as there is disk for."""

    def __init__(self) -> None:
        self._file = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115
        self._count = 0

    def append(self, array: Array) -> None:
        """Write one more."""
        np.save(self._file, np.ascontiguousarray(array), allow_pickle=False)
        self._count += 1

    def __iter__(self) -> Iterator[Array]:
        self._file.flush()
        self._file.seek(0)
        for _ in range(self._count):
            yield np.load(self._file, allow_pickle=False)


@dataclass
class Original:
    """What is remembered of the original model on one part."""

    rows: list[Rows] = field(default_factory=list)  # where labels are the truth
    truths: Spool = field(default_factory=Spool)  # where its own outputs are


class _Chosen:
    """Some calls of a part."""

    def __init__(self, batches: Batches, chosen: frozenset[int]) -> None:
        self._batches, self._chosen = batches, chosen

    @staticmethod
    def of(batches: Batches, chosen: frozenset[int] | None) -> Batches | _Chosen:
        """The part itself where no call is left out."""
        return batches if chosen is None else _Chosen(batches, chosen)

    @property
    def samples(self) -> int:
        """As many as they hold at most."""
        return len(self._chosen) * -(-self._batches.samples // max(self._batches.calls, 1))

    def __iter__(self) -> Iterator[Batch]:
        return (batch for number, batch in enumerate(self._batches) if number in self._chosen)


class Parts(Protocol):
    """Data in its parts: one set that is split, or two."""

    def part(self, part: Part) -> PartOfData:
        """The batches of a part; raises E0746 when it has no sample."""


class DataJudge:
    """A judge of modules, and of whatever else can be run; see `optc.passes.quality.Judge`.

    `run` is the original model; `kept` is what other compilations found out about it. `blind` is
    the metric of parts without labels, where `metric` is one of labels.
    """

    def __init__(
        self,
        run: Runner,
        data: Parts,
        metric: Metric,
        budget: float | None = None,
        kept: Originals | None = None,
        blind: Metric | None = None,
    ) -> None:
        self.rule, self._run, self._data, self._kept = metric, run, data, kept
        self._blind = blind or metric
        self._budget = budget
        self._originals: dict[tuple[Part, frozenset[int] | None], Original] = {}

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self.rule.label

    @property
    def output(self) -> str:
        """The output that the metric reads."""
        return self.rule.output

    @property
    def budget(self) -> float | None:
        """The largest drop that the user accepts."""
        return self._budget

    def losses(self, output: Array, original: Array, labels: Array | None) -> NDArray[np.float64]:
        """What each sample loses, for metrics that count right answers."""
        if not isinstance(self.rule, Accuracy | Agreement):
            raise error(
                "E0745",
                f"{self.rule.label} is no mean of right answers, which exits are chosen by",
                help="--metric accuracy, top5 or agreement",
            )
        found, before = {self.rule.output: output}, {self.rule.output: original}
        rule = self.rule if labels is not None else self._blind
        truth = labels
        if truth is None or rule.against is Against.ORIGINAL:
            truth = rule.truth_of(before)
        (x, y), (x_before, _) = rule.rows(found, truth), rule.rows(before, truth)
        lost: NDArray[np.float64] = (x_before - x) / np.where(y > 0, y, 1.0)
        return lost

    def answers(self, part: Part) -> Array:
        """What the original answers in `output` to each call of a part, fillings included."""
        calls = (batch.inputs for batch in self._data.part(part))
        return np.stack([np.asarray(found[self.rule.output]) for found in self._run(calls)])

    def quality(self, module: Module, part: Part = Part.HELD_OUT) -> Quality:
        """The metric of a module, run by the reference."""
        if self._rule(part).against is Against.ORIGINAL:
            return self.compare(module, part).after
        return evaluate(reference(module), self._data.part(part), self.rule)

    def _rule(self, part: Part) -> Metric:
        return self.rule if self._data.part(part).labelled else self._blind

    def compare(
        self, module: Module, part: Part = Part.HELD_OUT, calls: Collection[int] | None = None
    ) -> Difference:
        """A module against the original, both run by the reference."""
        return self.compare_run(reference(module), part, calls=calls)

    def compare_run(
        self,
        run: Runner,
        part: Part = Part.HELD_OUT,
        progress: Progress | None = None,
        calls: Collection[int] | None = None,
    ) -> Difference:
        """Whatever `run` runs against the original, sample by sample; `calls` as in `compare`."""
        chosen, rule = None if calls is None else frozenset(calls), self._rule(part)
        batches = _Chosen.of(self._data.part(part), chosen)
        walks = 1 if (part, chosen) in self._originals else 2
        if walks == 2:
            question = f"{part.value} {'all' if chosen is None else sorted(chosen)}"
            self._originals[part, chosen] = self._known(rule, question, batches, progress)
        original, tally = self._originals[part, chosen], Tally(rule)
        done, total = (walks - 1) * batches.samples, walks * batches.samples
        truths = iter(original.truths)
        for index, (batch, outputs) in enumerate(answered(run, batches)):
            if rule.against is Against.ORIGINAL:
                tally.add(rule.rows(outputs, next(truths)))
            else:
                tally.add(rule.rows(outputs, _labels(batch)), original.rows[index])
            done += batch.valid
            if progress is not None:
                progress(done, total)
        return tally.difference()

    def _known(
        self, rule: Metric, question: str, batches: Batches | _Chosen, progress: Progress | None
    ) -> Original:
        """What is kept; of an original that is itself the truth nothing is: it may be large."""
        if self._kept is None or rule.against is Against.ORIGINAL:
            return self._remember(rule, batches, progress)
        return Original(
            self._kept.rows(question, lambda: self._remember(rule, batches, progress).rows)
        )

    def _remember(
        self, rule: Metric, batches: Batches | _Chosen, progress: Progress | None
    ) -> Original:
        found, done = Original(), 0
        for batch, outputs in answered(self._run, batches):
            if rule.against is Against.ORIGINAL:
                found.truths.append(rule.truth_of(outputs))
            else:
                found.rows.append(rule.rows(outputs, _labels(batch)))
            done += batch.valid
            if progress is not None:
                progress(done, 2 * batches.samples)
        return found


def evaluate(
    run: Runner, batches: Batches, metric: Metric, progress: Progress | None = None
) -> Quality:
    """The metric of whatever `run` runs, on labels."""
    tally, done = Tally(metric), 0
    for batch, outputs in answered(run, batches):
        tally.add(metric.rows(outputs, _labels(batch)))
        done += batch.valid
        if progress is not None:
            progress(done, batches.samples)
    return tally.quality()


def answered(run: Runner, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Mapping[str, Array]]]:
    """Each batch with its outputs, which have no rows for what the batch was filled with.

    An output without the batch's axis is left as it is. A runner may take some batches ahead.
    """
    waiting: deque[Batch] = deque()

    def inputs() -> Iterator[Mapping[str, Array]]:
        for batch in batches:
            waiting.append(batch)
            yield batch.inputs

    for found in run(inputs()):
        batch = waiting.popleft()
        yield batch, _counted(found, batch)


def _counted(found: Mapping[str, Array], batch: Batch) -> Mapping[str, Array]:
    if batch.size is None:
        return {name: array[None] for name, array in found.items()}
    return {
        name: array[: batch.valid] if array.shape[:1] == (batch.size,) else array
        for name, array in found.items()
    }


def _labels(batch: Batch) -> Array:
    assert batch.labels is not None, "the metric was chosen with labels"
    return batch.labels[: batch.valid]
