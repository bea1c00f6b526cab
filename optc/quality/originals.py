"""What is remembered of the original model on the user's data, from one compilation to the next.

It is one model on one set of samples however many pipelines are tried: running it again would only
give the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optc.ir.output import replace_file
from optc.quality.tally import Rows

FORMAT = 1  # of the kept numbers


@dataclass(frozen=True, slots=True)
class Originals:
    """Numbers by question, kept in a folder; `subject` names model, data and metric by digests."""

    folder: Path
    subject: str

    def rows(self, question: str, made: Callable[[], Sequence[Rows]]) -> list[Rows]:
        """A metric's rows, batch by batch: those that are kept, or what `made` gives, kept."""
        path = self._path(question)
        if not path.exists():
            self._keep(path, made())
        with np.load(path, allow_pickle=False) as kept:
            ends = np.cumsum(kept["sizes"])[:-1]
            return list(zip(np.split(kept["x"], ends), np.split(kept["y"], ends), strict=True))

    def _path(self, question: str) -> Path:
        text = f"{FORMAT} {self.subject} {question}"
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"

    def _keep(self, path: Path, rows: Sequence[Rows]) -> None:
        x, y = (np.concatenate(part) for part in zip(*rows, strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as aside, aside.open("wb") as file:
            np.savez(file, allow_pickle=False, x=x, y=y, sizes=[len(first) for first, _ in rows])
