"""Labels beside the samples: in the data, or in a file of their own that is read in step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from optc.data.function import LABELS
from optc.data.source import Array, Block, Files, Source
from optc.ir.diagnostics import error


@dataclass(frozen=True)
class Labels:
    """Where labels are: an array of the data called `array`, or of `file`.

    Labels that were not asked for (`asked` is False) may be missing.
    """

    array: str = LABELS
    file: Files | None = None
    asked: bool = False

    @staticmethod
    def named(text: str | None) -> Labels:
        """From what the user wrote; raises E0740 for a file that cannot be read, E0744."""
        if text is None:
            return Labels()
        file, colon, name = text.rpartition(":")
        if not colon and not text.endswith((".npy", ".npz")):
            return Labels(text, asked=True)
        source = Files(Path(file if colon else text))
        names = source.names or ()
        chosen = name if colon else names[0] if len(names) == 1 else LABELS
        if chosen not in names:
            raise _absent(chosen, source.name, names)
        return Labels(chosen, source, True)

    def inside(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """Arrays of the data that are labels."""
        taken = self.file is not None or (not self.asked and self.array in inputs)
        return () if taken else (self.array,)

    def reader(self, data: Source, inputs: Sequence[str]) -> Reader:
        """Reads labels from the start, in step with the data's blocks."""
        return Reader(self, data, inputs)


class Reader:
    """The labels of block after block."""

    def __init__(self, labels: Labels, data: Source, inputs: Sequence[str]) -> None:
        self._labels, self._data = labels, data
        self._inside = labels.inside(inputs)
        self._blocks = None if labels.file is None else labels.file.blocks((labels.array,))
        self._rest: Array | None = None
        self._ended = False

    def __call__(self, block: Block, start: int, count: int) -> Array | None:
        """The labels of `count` samples from `start` on; None where there are none."""
        if self._blocks is not None:
            return self._next(start, count)
        if self._inside and self._labels.array in block:
            return np.ascontiguousarray(block[self._labels.array][:count])
        if self._labels.asked:
            known = self._data.names or tuple(block)
            raise _absent(self._labels.array, self._data.name, known)
        return None

    def _next(self, start: int, count: int) -> Array:
        assert self._blocks is not None
        while self._rest is None or len(self._rest) < count:
            block = next(self._blocks, None)
            if block is None:
                have = start + (0 if self._rest is None else len(self._rest))
                raise self._unequal(f"{have} labels, and there are more samples")
            more = block[self._labels.array]
            self._rest = more if self._rest is None else np.concatenate([self._rest, more])
        rows, self._rest = self._rest[:count], self._rest[count:]
        return rows

    def finish(self, samples: int) -> None:
        """Raises E0744 when labels are left after the last sample."""
        if self._blocks is None:
            return
        left = 0 if self._rest is None else len(self._rest)
        left += sum(len(block[self._labels.array]) for block in self._blocks)
        if left:
            raise self._unequal(f"{samples + left} labels, and there are {samples} samples")

    def _unequal(self, reason: str) -> Exception:
        file = self._labels.file
        return error(
            "E0744",
            f"{file.name if file else ''} has {reason} in {self._data.name}",
            help="one label for each sample, in the same order",
        )


def _absent(name: str, place: str, known: Sequence[str]) -> Exception:
    near = get_close_matches(name, known, 1, 0.4)
    offer = f"; did you mean {near[0]}?" if near else ""
    have = ", ".join(known) or "nothing"
    return error(
        "E0744",
        f"{place} has no labels called {name!r}; it has {have}{offer}",
        help="--labels labels.npy, --labels file.npz:name, or the name of an array in the data",
    )
