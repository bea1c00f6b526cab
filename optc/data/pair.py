"""Two sets of samples: passes learn from one, the other gives the verdict, and none is in both.

People who have a calibration and a validation set want all of both used. The sets are compared by
content: a sample of the calibration set that is among those to judge by is not learnt from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optc.data.dataset import Dataset, PartOfData
from optc.ir.diagnostics import Diagnostic, Severity, error
from optc.passes.quality import Part


@dataclass(frozen=True)
class Pair:
    """All that is left of `learning` is for calibration, all of `judging` is held out.

    `shared` counts samples of the calibration set that were left out, being in the other as well.
    """

    learning: Dataset
    judging: Dataset
    shared: int = 0

    def part(self, part: Part) -> PartOfData:
        """The batches of a part; `Part.ALL` is the set to judge by."""
        return (self.learning if part is Part.CALIBRATION else self.judging).part(part)

    @property
    def digest(self) -> str:
        """Names both sets, and what was left out."""
        return f"{self.learning.facts.digest} {self.shared} {self.judging.facts.digest}"

    def record(self) -> dict[str, Any]:
        """What the lock says: of the set to judge by, and under `calibration_data` of the other."""
        return {
            **self.judging.record(),
            "calibration_data": {**self.learning.record(), "shared": self.shared},
        }

    def findings(self) -> list[Diagnostic]:
        """W0751 where samples were left out, and what either set has to say."""
        each = self.learning.findings() + self.judging.findings()
        if not self.shared:
            return each
        own, other = self.learning.source.name, self.judging.source.name
        return [
            *each,
            Diagnostic(
                "W0751",
                f"{self.shared} of {self.learning.facts.samples} samples of {own} are in {other} "
                "too: passes do not learn from them",
                Severity.WARNING,
                help="optc explain W0751",
            ),
        ]


def paired(learning: Dataset, judging: Dataset) -> Pair:
    """The two sets without what they share; raises E0750 where nothing is left to learn from.

    Raises E0742 where a sample is a call of one and a row of a call of the other.
    """
    if learning.batch != judging.batch:
        raise error(
            "E0742",
            f"samples of {learning.source.name} and of {judging.source.name} differ in shape: a "
            "whole call in one, a row of a call in the other",
            help="give both the same shape but for the number of samples",
        )
    known: dict[bytes, list[int]] = {}
    for index, content in enumerate(learning.contents()):
        known.setdefault(content, []).append(index)
    dropped = np.zeros(learning.facts.samples, np.bool_)
    for content in judging.contents():
        dropped[known.pop(content, [])] = True
    if dropped.all():
        raise error(
            "E0750",
            f"every sample of {learning.source.name} is in {judging.source.name} too: what is "
            "learnt from cannot judge",
            help="--calibration-share 30%, without --calibration-data, cuts one set in two",
        )
    return Pair(learning.without(dropped), judging, int(dropped.sum()))
