"""Which taps meet which rows of a word, and weights packed for that: see `tap_words`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optc.ir.dtype import DType
from optc.ir.types import TensorType

_WORD = 32  # bits


@dataclass(frozen=True, slots=True)
class Meeting:
    """Output row `row` of a band reads taps of kernel column `column` in word `word` of it."""

    row: int
    word: int
    column: int


def meetings(kernel: tuple[int, int], rows: int, stride: int, group: int) -> tuple[Meeting, ...]:
    """All that meet in a band of output rows, by words of `group` rows.

    A packed weight has a row for each.
    """
    found = []
    for row in range(rows):
        first = row * stride
        for word in range(first // group, (first + kernel[0] - 1) // group + 1):
            found += [Meeting(row, word, column) for column in range(kernel[1])]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class TapsPack:
    """[C, 1, *K] bytes as one i32 for each meeting and channel; C is padded to whole vectors.

    A word holds `group` taps.

    With `origin` a last row has that times the sum of a channel's taps, which sums start at.
    """

    rows: int
    stride: int
    lanes: int
    origin: int
    group: int

    def type(self, natural: TensorType) -> TensorType:
        """[meetings, padded channels]."""
        count = len(meetings(_kernel(natural.shape), self.rows, self.stride, self.group))
        depth = count + (self.origin != 0)
        return TensorType((depth, -(-natural.shape[0] // self.lanes) * self.lanes), DType.I32)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The taps where their rows are."""
        channels, taps = array.shape[0], array.shape[2]
        packed = []
        for meeting in meetings(_kernel(array.shape), self.rows, self.stride, self.group):
            word = np.zeros((channels, self.group), f"i{_WORD // 8 // self.group}")
            for place in range(self.group):
                tap = self.group * meeting.word + place - meeting.row * self.stride
                if 0 <= tap < taps:
                    word[:, place] = array[:, 0, tap, meeting.column]
            packed.append(word.view(np.int32)[:, 0])
        if self.origin:
            sums = array.reshape(channels, -1).sum(axis=1, dtype=np.int64)
            packed.append((sums * self.origin).astype(np.int32))
        padding = -channels % self.lanes
        return np.ascontiguousarray(np.pad(np.stack(packed), ((0, 0), (0, padding))))


def _kernel(shape: Sequence[int]) -> tuple[int, int]:
    return shape[2], shape[3]


@dataclass(frozen=True, slots=True)
class TapKnobs:
    """Sums of `rows` x `columns` positions are kept in registers."""

    rows: int
    columns: int


def span(outputs: int, stride: int, taps: int, gap: int) -> int:
    """Inputs that neighbouring outputs read along an axis."""
    return (outputs - 1) * stride + (taps - 1) * gap + 1
