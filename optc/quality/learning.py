"""Which samples passes learn from: a share of those that are given, or a set of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from optc.ir.diagnostics import error

if TYPE_CHECKING:
    from optc.data.dataset import Given
    from optc.quality.evidence import DataRequest


@dataclass(frozen=True, slots=True)
class Learning:
    """What a user says: `data` with its `labels`, or a `share` (0.1 to 0.9) of the data."""

    data: Given | None = None
    labels: str | None = None
    share: float | None = None

    def check(self, *, judged: bool) -> None:
        """Raise E0703 for what contradicts itself, or lacks data to judge by."""
        if self.labels is not None and self.data is None:
            raise error(
                "E0703",
                "--calibration-labels needs --calibration-data",
                help="--calibration-data calib.npz",
            )
        if self.data is not None and self.share is not None:
            raise error(
                "E0703",
                "--calibration-data is all for passes: there is no share of --data for them",
                help="leave out one of --calibration-data and --calibration-share",
            )
        if not judged and (self.data is not None or self.share is not None):
            name = "--calibration-share" if self.data is None else "--calibration-data"
            raise error("E0703", f"{name} needs --data, to judge by", help="--data test.npz")

    def of(self, request: DataRequest) -> DataRequest:
        """The request with it; raises E0703 for a share that is none of 10 % to 90 % in tens."""
        from optc.data.split import tenths

        if self.data is not None:
            return replace(request, calibration_data=self.data, calibration_labels=self.labels)
        return request if self.share is None else replace(request, calibration=tenths(self.share))
