"""The digest of weights.bin, bit for bit what runtime/weights.c computes; see there for why."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WORDS = 1024
_ODD = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
BLOCK = _WORDS * 8  # bytes
_FACTORS = (2 * np.arange(_WORDS, dtype=np.uint64) + np.uint64(1)) * np.uint64(_ODD)


class Digest:
    """Digest of bytes that come in pieces; all pieces but the last hold whole blocks."""

    def __init__(self) -> None:
        self._hash = _ODD
        self._bytes = 0

    def update(self, data: memoryview | bytes | NDArray[np.uint8]) -> None:
        """Takes the next piece, a multiple of 8 bytes."""
        words = np.frombuffer(data, dtype="<u8")
        self._bytes += 8 * len(words)
        whole = len(words) // _WORDS * _WORDS
        sums = [
            ((_fold(words[:whole]).reshape(-1, _WORDS)) * _FACTORS).sum(axis=1, dtype=np.uint64)
        ]
        if whole < len(words):
            tail = _fold(words[whole:])
            sums.append(
                np.array([(tail * _FACTORS[: len(tail)]).sum(dtype=np.uint64)], dtype=np.uint64)
            )
        for block in np.concatenate(sums).tolist():
            self._hash = _mix(self._hash ^ block)

    def value(self) -> int:
        """The digest, 64 bits."""
        return _mix(self._hash ^ self._bytes)


def _fold(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return words ^ (words >> np.uint64(29))


def _mix(value: int) -> int:
    value = value * _ODD & _MASK
    return value ^ value >> 32
