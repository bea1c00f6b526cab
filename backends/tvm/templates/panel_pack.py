"""Constant right sides as panels of a few vectors' width: what a register tile goes through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optc.backends.tvm.templates.dot import Words
from optc.backends.tvm.templates.tail import Tail
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class PanelPack:
    """[N, K] (`transposed`) or [K, N] weights as panels [K][width] one after another, zero-padded.

    K counts words. The last panel is only as wide as its columns need, in whole vectors of `lanes`;
    the columns of a `tail` come behind all panels, in an order of their own.
    """

    width: int
    lanes: int
    transposed: bool
    words: Words
    tail: Tail | None = None

    def type(self, natural: TensorType) -> TensorType:
        """One axis of K * N' words, N' being N in whole vectors."""
        rows, columns = natural.shape[-2], natural.shape[-1]
        n, k = (rows, columns) if self.transposed else (columns, rows)
        apart = self.tail.columns if self.tail else 0
        size = self.panels_size(n - apart, k)
        size += self.tail.size(self.words.steps(k), self.words) if self.tail else 0
        return TensorType((size,), self.words.word)

    def panels_size(self, columns: int, k: int) -> int:
        """Words of the panels."""
        return self.words.rows(k) * -(-columns // self.lanes) * self.lanes

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The panels, flat."""
        rows, columns = array.shape[-2], array.shape[-1]
        n = rows if self.transposed else columns
        matrix = array.reshape(rows, columns)
        matrix = matrix.T if self.transposed else matrix
        if self.tail is None:
            return self._panels(matrix)
        panels, apart = np.split(matrix, [n - self.tail.columns], axis=1)
        return np.concatenate([self._panels(panels), self.tail.pack(apart, self.words)])

    def _panels(self, matrix: np.ndarray) -> np.ndarray:
        k, n = matrix.shape
        padded = np.zeros((k, -(-n // self.lanes) * self.lanes), matrix.dtype)
        padded[:, :n] = matrix
        packed = np.concatenate([self.words.start(padded), self.words.pack(padded)])
        width = self.width * self.words.columns
        parts = np.split(packed, range(width, packed.shape[1], width), axis=1)
        return np.concatenate([part.ravel() for part in parts])
