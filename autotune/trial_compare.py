"""Do candidates compute the same? Those that do form a group; the largest group is believed.

No reference is evaluated: a wrong template would be found by its own tests. What is to be found
here is the setting of a template that breaks it, and such settings are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.backends.program import Port
from optc.ir.dtype import DType

# Of the range of an output's values: sums in another order differ by far less, wrong ones by more.
TOLERANCE = {DType.F64: 1e-9, DType.F32: 1e-4, DType.F16: 1e-2, DType.BF16: 3e-2}


@dataclass
class Agreement:
    """Groups candidates by what they computed; keeps the bytes of one candidate of each group."""

    ports: Sequence[Port]
    _groups: list[tuple[bytes, list[int]]] = field(default_factory=list)

    def add(self, candidate: int, outputs: bytes) -> None:
        """Note what a candidate computed: all its outputs, one behind the other."""
        for sample, members in self._groups:
            if same(self.ports, sample, outputs):
                members.append(candidate)
                return
        self._groups.append((outputs, [candidate]))

    def wrong(self) -> frozenset[int]:
        """Candidates outside of the largest group; of equally large ones the first is believed."""
        if not self._groups:
            return frozenset()
        believed = max(self._groups, key=lambda group: len(group[1]))[1]
        rest = (members for _, members in self._groups if members is not believed)
        return frozenset(candidate for members in rest for candidate in members)


def same(ports: Sequence[Port], a: bytes, b: bytes) -> bool:
    """Whether two results agree: floats within the tolerance, everything else exactly."""
    start = 0
    for port in ports:
        end = start + port.nbytes
        if not _same_output(port.dtype, a[start:end], b[start:end]):
            return False
        start = end
    return len(a) == len(b) == start


def _same_output(dtype: DType, a: bytes, b: bytes) -> bool:
    if a == b:
        return True
    if dtype not in TOLERANCE:
        return False
    left, right = _floats(dtype, a), _floats(dtype, b)
    finite = np.isfinite(left)
    if not np.array_equal(finite, np.isfinite(right)):
        return False
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return False
    left, right = left[finite], right[finite]
    if not left.size:
        return True
    # A constant output has no spread: its size stands in for it.
    span = max(float(np.ptp(left)), float(np.abs(left).max()))
    return bool(np.abs(left - right).max() <= TOLERANCE[dtype] * span)


def _floats(dtype: DType, data: bytes) -> NDArray[Any]:
    array = np.frombuffer(data, dtype.storage)
    if dtype is DType.BF16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)
