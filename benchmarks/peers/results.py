"""What was measured, as one file that later runs add to, and as a table for people.

`Entry` is one contender on one model; the file `peers.json` has one per model, target, number of
threads and contender, so that models can be measured one at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.peers.contender import CONTENDERS
from optc.bench import KernelRow, kernel_rows
from optc.roofline import Limits
from optc.runtime import KernelTime

OURS, REFERENCE = "optc", "PyTorch"


@dataclass(frozen=True)
class Entry:
    """Seconds of a contender's calls; `error` is the largest, as a share of the output's range.

    `p10` is what a call takes when nothing disturbs it.
    """

    contender: str
    version: str = ""
    median: float = math.nan
    p10: float = math.nan
    p90: float = math.nan
    calls: int = 0
    error: float = math.nan
    problem: str = ""

    @staticmethod
    def of(name: str, version: str, rounds: Sequence[Sequence[float]], error: float) -> Entry:
        """From the calls of each round: the middle of the rounds' medians, p90 of all calls."""
        every = [seconds for times in rounds for seconds in times]
        middle = median(median(times) for times in rounds)
        low, high = (float(value) for value in np.percentile(every, (10, 90)))
        return Entry(name, version, middle, low, high, len(every), error)

    @property
    def timed(self) -> bool:
        """Whether there is a time that may be quoted: the outputs were right, too."""
        return not self.problem and math.isfinite(self.median)


@dataclass(frozen=True)
class Row:
    """A model in one run. `kernels` are ours, `limit` the least seconds for all of them."""

    model: str
    target: str
    threads: int
    machine: str
    date: str
    entries: tuple[Entry, ...]
    limit: float = math.nan
    kernels: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def key(self) -> str:
        """What tells rows apart."""
        return f"{self.model} {self.target} {self.threads}"

    def entry(self, name: str) -> Entry | None:
        """A contender's entry, if it has a time."""
        return next((e for e in self.entries if e.contender == name and e.timed), None)

    @property
    def best_peer(self) -> Entry | None:
        """The fastest of the others."""
        others = [e for e in self.entries if e.contender != OURS and e.timed]
        return min(others, key=lambda e: e.median, default=None)

    @property
    def ratio(self) -> float:
        """The best peer's time over ours: above 1 we are faster."""
        ours, best = self.entry(OURS), self.best_peer
        return best.median / ours.median if ours and best else math.nan

    @property
    def undisturbed(self) -> float:
        """The same of the tenth percentiles, which a noisy machine leaves alone."""
        ours, others = self.entry(OURS), [e for e in self.entries if e.contender != OURS]
        best = min((e.p10 for e in others if e.timed), default=math.nan)
        return best / ours.p10 if ours else math.nan

    def of_limit(self, entry: Entry) -> float:
        """The least time for our kernels as a share of a contender's undisturbed time."""
        return self.limit / entry.p10


def kernel_times(
    rows: Sequence[Mapping[str, Any]], limits: Limits, weights: int
) -> tuple[KernelRow, ...]:
    """What a worker said of our kernels, against the limits."""
    calls = [
        KernelTime(
            row["label"], row["kernel"], "", row["flops"], row["bytes"], 1,
            0, round(row["seconds"] * 1e9), row["dtype"], row["written"], row["weights"],
        )
        for row in rows
    ]  # fmt: skip
    return kernel_rows(calls, limits, weights)


def read(path: Path) -> dict[str, Row]:
    """What earlier runs wrote, by key; nothing where there is no file."""
    if not path.exists():
        return {}
    rows = {}
    for item in json.loads(path.read_text()):
        entries = tuple(Entry(**entry) for entry in item.pop("entries"))
        row = Row(**{**item, "entries": entries, "kernels": tuple(item["kernels"])})
        rows[row.key] = row
    return rows


def merge(path: Path, new: Sequence[Row]) -> dict[str, Row]:
    """Replace the rows measured now, keep the others; the file is written aside and renamed."""
    rows = {**read(path), **{row.key: row for row in new}}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps([asdict(row) for row in rows.values()], indent=1) + "\n")
    aside.replace(path)
    return rows


def geometric_mean(ratios: Sequence[float]) -> float:
    """Of those that are known; nan of none."""
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else math.nan


def contenders(rows: Sequence[Row]) -> list[str]:
    """Who has an entry in any row, in the catalogue's order."""
    seen = {entry.contender for row in rows for entry in row.entries}
    return [name for name in CONTENDERS if name in seen]
