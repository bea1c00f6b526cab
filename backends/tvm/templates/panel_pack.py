"""Constant right sides as panels of a few vectors' width: what a register tile goes through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optc.backends.tvm.templates.dot import Words
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class PanelPack:
    """[N, K] (`transposed`) or [K, N] weights as panels [K][width] one after another, zero-padded.

    K counts words. The last panel is only as wide as its columns need, in whole vectors of `lanes`.
    """

    width: int
    lanes: int
    transposed: bool
    words: Words

    def type(self, natural: TensorType) -> TensorType:
        """One axis of K * N' words, N' being N in whole vectors."""
        rows, columns = natural.shape[-2], natural.shape[-1]
        n, k = (rows, columns) if self.transposed else (columns, rows)
        size = self.words.rows(k) * -(-n // self.lanes) * self.lanes
        return TensorType((size,), self.words.word)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The panels, flat."""
        rows, columns = array.shape[-2], array.shape[-1]
        k, n = (columns, rows) if self.transposed else (rows, columns)
        matrix = array.reshape(rows, columns)
        padded = np.zeros((k, -(-n // self.lanes) * self.lanes), array.dtype)
        padded[:, :n] = matrix.T if self.transposed else matrix
        packed = np.concatenate([self.words.start(padded), self.words.pack(padded)])
        width = self.width * self.words.columns
        parts = np.split(packed, range(width, packed.shape[1], width), axis=1)
        return np.concatenate([part.ravel() for part in parts])
