"""Sums that lie apart: a column has one of its even and one of its odd elements along K.

A vector of sixteen lanes then holds eight columns. Twenty-four columns fill three such vectors for
two steps along K, where they leave a quarter of four idle in the ordinary way; and as a word of two
elements is loaded at once, a load serves twice as many multiply-adds. The sums of a column are
neighbours, and are added up by shuffles behind the loop.

SSE has it as its one broadcast from memory, `movddup`; single elements take a shuffle, and a unit
that additions need. Its instructions overwrite their first operand. Of an addition that may be
either, and LLVM lets products take the registers of sums, which then go round the loop through
memory; a subtraction overwrites the sum. So sums are kept `negated` there, the same bits but one.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.loops import Code, as_index
from optc.ir.targets.target import Arch, Target

SUMS = 2  # of a column


def overwrites(target: Target) -> bool:
    """Whether instructions overwrite an operand, and none but `movddup` broadcasts from memory."""
    return target.arch is Arch.X86_64 and target.vector_bits == 128


@dataclass(frozen=True, slots=True)
class Apart:
    """How f32 sums that lie apart are added to."""

    negated: bool = False

    def add(
        self, code: Code, sums: Buffer, place: tuple[Expr, Expr], left: Expr, right: Expr
    ) -> None:
        """One step for the vector of sums from (row, column) on: a word by a vector of words."""
        row, column = place
        words = int(right.ty.dtype.lanes)
        kind = f"{sums.dtype}x{words * SUMS}"
        at = [row, tirx.Ramp(column * SUMS, as_index(1), words * SUMS)]
        # An integer would be shuffled, not loaded to both halves.
        both = tirx.reinterpret(kind, tirx.Broadcast(tirx.reinterpret("float64", left), words))
        product, total = both * tirx.reinterpret(kind, right), tirx.BufferLoad(sums, at)
        code.add(tirx.BufferStore(sums, total - product if self.negated else total + product, at))

    def joined(self, code: Code, sums: Buffer, lanes: int) -> Buffer:
        """The sums of each column added up: [rows, columns], in vectors of `lanes`."""
        return _joined(code, sums, lanes, self.negated)


def _joined(code: Code, sums: Buffer, lanes: int, negated: bool) -> Buffer:
    rows, width = (int(extent) for extent in sums.shape)
    result = code.scratch("joined", (rows, width // SUMS), str(sums.dtype))
    for row in range(rows):
        for first in range(0, width, SUMS * lanes):
            size = min(SUMS * lanes, width - first)
            parts = [_vector(sums, row, at, lanes) for at in range(first, first + size, lanes)]
            even, odd = (_every(parts, size, start) for start in range(SUMS))
            at = [as_index(row), _ramp(first // SUMS, size // SUMS)]
            zero = tirx.Broadcast(tirx.const(0, str(sums.dtype)), size // SUMS)
            total = zero - even - odd if negated else even + odd
            code.add(tirx.BufferStore(result, total, at))
    return result


def _every(parts: list[Expr], size: int, start: int) -> Expr:
    return tirx.Shuffle(parts, [as_index(lane) for lane in range(start, size, SUMS)])


def _vector(buffer: Buffer, row: int, first: int, lanes: int) -> Expr:
    return tirx.BufferLoad(buffer, [as_index(row), _ramp(first, lanes)])


def _ramp(first: int, lanes: int) -> Expr:
    return tirx.Ramp(as_index(first), as_index(1), lanes)
