"""Sums that lie apart: a column has one of its even and one of its odd elements along K.

A vector of sixteen lanes then holds eight columns. Twenty-four columns fill three such vectors for
two steps along K, where they leave a quarter of four idle in the ordinary way; and as a word of two
elements is loaded at once, a load serves twice as many multiply-adds. The sums of a column are
neighbours, and are added up by shuffles behind the loop.
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.dot import Dot
from optc.backends.tvm.templates.loops import Code, as_index

SUMS = 2  # of a column


def add_apart(
    code: Code, dot: Dot, sums: Buffer, place: tuple[Expr, Expr], left: Expr, right: Expr
) -> None:
    """One step for the vector of sums from (row, column) on: a word by a vector of words."""
    row, column = place
    words = int(right.ty.dtype.lanes)
    kind = f"{tvm_dtype(dot.sum)}x{words * SUMS}"
    at = [row, tirx.Ramp(column * SUMS, as_index(1), words * SUMS)]
    product = tirx.reinterpret(kind, tirx.Broadcast(left, words)) * tirx.reinterpret(kind, right)
    code.add(tirx.BufferStore(sums, tirx.BufferLoad(sums, at) + product, at))


def joined(code: Code, sums: Buffer, lanes: int) -> Buffer:
    """The sums of each column added up: [rows, columns], in vectors of `lanes`."""
    rows, width = (int(extent) for extent in sums.shape)
    result = code.scratch("joined", (rows, width // SUMS), str(sums.dtype))
    for row in range(rows):
        for first in range(0, width, SUMS * lanes):
            size = min(SUMS * lanes, width - first)
            parts = [_vector(sums, row, at, lanes) for at in range(first, first + size, lanes)]
            even, odd = (_every(parts, size, start) for start in range(SUMS))
            at = [as_index(row), _ramp(first // SUMS, size // SUMS)]
            code.add(tirx.BufferStore(result, even + odd, at))
    return result


def _every(parts: list[Expr], size: int, start: int) -> Expr:
    return tirx.Shuffle(parts, [as_index(lane) for lane in range(start, size, SUMS)])


def _vector(buffer: Buffer, row: int, first: int, lanes: int) -> Expr:
    return tirx.BufferLoad(buffer, [as_index(row), _ramp(first, lanes)])


def _ramp(first: int, lanes: int) -> Expr:
    return tirx.Ramp(as_index(first), as_index(1), lanes)
