"""Weights whose bytes all fit in half of one, which a file holds in half their bytes.

Kernels of bytes read bytes: the runtime widens such blocks once, when it loads them. So four bits
cost what eight do when they are computed with, and half of it where they are stored and sent. It is
bytes that are looked at, as kernels lay weights out in words of four.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 64  # bytes from which it is worth a row in the loader's table


def fits(array: NDArray[Any]) -> bool:
    """Whether each byte of an array is, as an i8, one of -8 to 7."""
    whole = _bytes(array)
    return bool(whole.size >= LEAST and whole.min() >= -8 and whole.max() <= 7)


def packed(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Two bytes in one, the even one in the low half; the last of an odd number is alone."""
    flat = _bytes(array)
    flat = np.append(flat, np.zeros(flat.size % 2, np.int8)).view(np.uint8)
    pairs = (flat[::2] & 15) | (flat[1::2] << 4)
    return pairs.astype(np.uint8, copy=False)


def _bytes(array: NDArray[Any]) -> NDArray[np.int8]:
    found: NDArray[np.int8] = np.ascontiguousarray(array).reshape(-1).view(np.int8)
    return found
