"""Running statistics of a value: extremes, moments, and a histogram that grows with its range."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optc.passes.calibration import BINS, Statistics

_HALF = BINS // 2
_SMALL = -64
_LEAST = 2.0**-126  # of a histogram's reach: the smallest normal f32


class Spread:
    """Statistics of what it was shown; per channel along `axis` where that is given.

    The histogram reaches to a power of two. When a larger number comes, neighbouring bins are
    merged, so that the result does not depend on the order in which calls come.
    """

    def __init__(self, axis: int | None = None) -> None:
        self._axis = axis
        self._least = self._most = torch.zeros(0, dtype=torch.float64)
        self._sum = self._squares = self._elements = torch.zeros(0, dtype=torch.float64)
        self._counts = torch.zeros(BINS, dtype=torch.float64)
        self._exponent: int | None = None

    def add(self, array: NDArray[Any]) -> None:
        """One call's value; numbers that are not finite are left out."""
        x = torch.from_numpy(np.ascontiguousarray(array))
        x = x.float() if x.dtype not in (torch.float32, torch.float64) else x
        rows = x.reshape(1, -1) if self._axis is None else x.movedim(self._axis, 0).flatten(1)
        finite = torch.isfinite(rows)
        if finite.all():
            least, most, counts = (
                rows.amin(1),
                rows.amax(1),
                torch.full((len(rows),), rows.shape[1]),
            )
        else:
            least = torch.where(finite, rows, torch.inf).amin(1)
            most = torch.where(finite, rows, -torch.inf).amax(1)
            counts, rows = finite.sum(1), torch.where(finite, rows, 0.0)
        self._add_moments(rows, least.double(), most.double(), counts.double())
        self._add_counts(x.reshape(-1) if finite.all() else x[torch.isfinite(x)])

    def _add_moments(self, rows: Tensor, least: Tensor, most: Tensor, counts: Tensor) -> None:
        total = rows.sum(1, dtype=torch.float64)
        squares = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) ** 2
        if not len(self._sum):
            self._least, self._most = least, most
            self._sum, self._squares, self._elements = total, squares, counts
            return
        self._least = torch.minimum(self._least, least)
        self._most = torch.maximum(self._most, most)
        self._sum, self._squares = self._sum + total, self._squares + squares
        self._elements = self._elements + counts

    def _add_counts(self, x: Tensor) -> None:
        if not len(x):
            return
        exponent = math.frexp(max(float(x.abs().max()), _LEAST))[1]  # 2**exponent is beyond all
        if self._exponent is None:
            self._exponent = exponent
        elif exponent > self._exponent:
            self._widen(exponent - self._exponent)
            self._exponent = exponent
        # A power of two scales exactly, and each side is cut off towards zero: numbers too tiny for
        # a bin of their own keep their side.
        wide = x if self._exponent > _SMALL else x.double()  # the factor fits f32
        places = (wide * (_HALF / 2.0**self._exponent)).int() + _HALF - (x < 0).int()
        found = np.bincount(places.numpy(), minlength=BINS)
        self._counts += torch.from_numpy(found)

    def _widen(self, doublings: int) -> None:
        """Merge neighbouring bins, each side of zero by itself."""
        group = 1 << min(doublings, _HALF.bit_length() - 1)
        kept = _HALF // group
        below = self._counts[:_HALF].reshape(kept, group).sum(1)
        above = self._counts[_HALF:].reshape(kept, group).sum(1)
        self._counts = torch.zeros(BINS, dtype=torch.float64)
        self._counts[_HALF - kept : _HALF] = below
        self._counts[_HALF : _HALF + kept] = above

    def statistics(self) -> Statistics:
        """What was found; raises ValueError before anything finite was shown."""
        if self._exponent is None:
            raise ValueError("no finite element was seen")
        elements = self._elements.clamp(min=1)
        return Statistics(
            self._least.numpy(),
            self._most.numpy(),
            (self._sum / elements).numpy(),
            (self._squares / elements).numpy(),
            self._elements.numpy().astype(np.int64),
            self._counts.numpy().astype(np.int64),
            2.0**self._exponent,
        )
