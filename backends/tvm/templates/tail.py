"""The last columns of a product, too few for a vector: their sums lie apart along K.

A vector's lanes are a few columns times `group` neighbours along K. Columns that fill a quarter of
a vector then take a quarter of the multiply-adds, each of which goes four steps along K. A row's
words come by one load that repeats them for every column; the sums of a column are neighbours, and
are added up behind the loop. What remains of K is gone through in the ordinary way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.dot import Dot, Words
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.product import Left
from optc.backends.tvm.templates.tile import FLOATS, Spread, Tile, accumulate
from optc.ir.targets.target import Arch, Target

_ROWS = 8  # at a time: more are no faster, and two sums of each have to fit the registers
_WRITTEN_OUT = 16  # iterations of a loop
_LOADED = 24  # vectors, beside which weights and sums find registers
MOST_ROWS = 2 * _ROWS  # of a product's tile: LLVM keeps addresses of more in memory
_LEAST = 0.02  # of all steps: a loop of its own has to start, and asks for weights elsewhere
_ADDING_UP = 12  # steps that must be saved for each cycle of the instruction's latency


@dataclass(frozen=True, slots=True)
class Tail:
    """`columns` whose vectors of `lanes` go `group` steps along K at once."""

    columns: int
    group: int
    lanes: int

    def split(self, steps: int) -> tuple[int, int]:
        """Vectors of several steps, and steps that remain."""
        return divmod(steps, self.group)

    def strips(self, rows: float, steps: int) -> int:
        """Into how many strips rows are divided.

        LLVM writes short loops out, and then loads all that a strip reads before it multiplies.
        """
        blocks, _ = self.split(steps)
        most = _ROWS if blocks > _WRITTEN_OUT else max(1, min(_ROWS, _LOADED // max(1, blocks)))
        return math.ceil(rows / most)

    def pack(self, matrix: np.ndarray, words: Words) -> np.ndarray:
        """[K, columns] weights: vectors [columns][group], then rows for what remains of K.

        The row that sums start at, if there is one, is the first of these.
        """
        places = self.lanes // self.group
        padded = np.zeros((matrix.shape[0], places), matrix.dtype)
        padded[:, : self.columns] = matrix
        packed = words.pack(padded)
        blocks, _ = self.split(packed.shape[0])
        body = packed[: blocks * self.group].reshape(blocks, self.group, places)
        rest = np.concatenate([words.start(padded), packed[blocks * self.group :]])
        rows = np.zeros((rest.shape[0], self.lanes), rest.dtype)
        rows[:, :places] = rest
        return np.concatenate([np.swapaxes(body, 1, 2).ravel(), rows.ravel()])

    def size(self, steps: int, words: Words) -> int:
        """Words of the packed array."""
        blocks, rest = self.split(steps)
        return (blocks + rest + (words.origin != 0)) * self.lanes


def tail_of(
    target: Target, dot: Dot, columns: int, steps: int, lanes: int, rows: float
) -> Tail | None:
    """How the last of `columns` are taken by strips of `rows`, if any are better taken apart."""
    left = columns % lanes
    instruction = dot == FLOATS or (bool(dot.intrinsic) and dot.adds and not dot.pairs)
    if not left or not instruction or target.arch is not Arch.X86_64 or not target.fma:
        return None
    groups = [1 << bit for bit in range(1, lanes.bit_length()) if left << bit <= lanes]
    tails = [Tail(left, group, lanes) for group in groups]
    best = min(tails, key=lambda tail: sum(tail.split(steps)), default=None)
    saved = steps - sum(best.split(steps)) if best else 0
    is_much = saved * lanes > _LEAST * steps * columns
    return best if is_much and rows * saved > _ADDING_UP * dot.latency else None


@dataclass(frozen=True)
class TailSums:
    """Adds up the sums of a tail, whose weights lie in `weights` from `start` on."""

    code: Code
    tail: Tail
    dot: Dot
    left: Left
    weights: Buffer
    start: int
    steps: int
    room: int

    def strips(self, rows: int, row: Expr) -> Iterator[tuple[int, Expr, Buffer]]:
        """(height, first row, sums) of as many rows at a time as registers hold, from `row` on."""
        count = self.tail.strips(rows, self.steps)
        for number in range(count):
            first, end = (rows * n // count for n in (number, number + 1))
            yield end - first, row + first, self._sums(end - first, row + first)

    def _sums(self, rows: int, row: Expr) -> Buffer:
        """Of rows from `row` on: [rows, lanes], the first `columns` of which are filled."""
        tail = self.tail
        blocks, rest = tail.split(self.steps)
        tile = Tile(rows, tail.lanes, tail.lanes)
        apart = accumulate(
            self.code, tile, blocks, 1, self._repeated(row),
            lambda k, column: self.weights[self.start + k * tail.lanes + column],
            self.dot, room=self.room,
        )  # fmt: skip
        first = self.start + blocks * tail.lanes
        origin = self.dot.origin != 0
        others = None
        if rest or origin:
            after = first + (tail.lanes if origin else 0)
            words = self.left.rows((), row, as_index(blocks * tail.group))
            others = accumulate(
                self.code, tile, rest, rest, words,
                lambda k, column: self.weights[after + k * tail.lanes + column],
                self.dot, start=(lambda column: self.weights[first + column]) if origin else None,
                room=self.room,
            )  # fmt: skip
        return self._joined(rows, apart, others)

    def _repeated(self, row: Expr) -> Callable[[int, Expr], Spread]:
        """A row's words of a block of steps, repeated for every column."""
        code, tail = self.code, self.tail
        blocks = self.left.blocks((), row, tail.group)

        def words(distance: int, k: Expr) -> Spread:
            vector = blocks(distance, k)
            many = code.scratch("many", (tail.lanes,), self.dot.left_word)
            copies = [vector] * (tail.lanes // tail.group)
            every = tirx.Shuffle(copies, [as_index(lane) for lane in range(tail.lanes)])
            code.add(tirx.BufferStore(many, every, [_ramp(0, tail.lanes)]))
            return Spread(many)

        return words

    def _joined(self, rows: int, apart: Buffer, others: Buffer | None) -> Buffer:
        code, places = self.code, self.tail.lanes // self.tail.group
        found = code.scratch("joined", (rows, self.tail.lanes), tvm_dtype(self.dot.sum))
        for row in range(rows):
            total = tirx.BufferLoad(apart, [as_index(row), _ramp(0, self.tail.lanes)])
            for step in range(self.tail.group.bit_length() - 1):
                total = self._halved(total, self.tail.lanes >> step, places)
            at = [as_index(row), _ramp(0, places)]
            if others is not None:
                total = total + tirx.BufferLoad(others, at)
            code.add(tirx.BufferStore(found, total, at))
        return found

    def _halved(self, total: Expr, lanes: int, places: int) -> Expr:
        """Each column's first half of sums added to its second half."""
        code, group = self.code, lanes // places
        named = code.scratch("total", (lanes,), tvm_dtype(self.dot.sum))
        code.add(tirx.BufferStore(named, total, [_ramp(0, lanes)]))
        whole = tirx.BufferLoad(named, [_ramp(0, lanes)])
        halves = [
            tirx.Shuffle(
                [whole],
                [as_index(p * group + half * (group // 2) + i) for p in range(places)
                 for i in range(group // 2)],
            )
            for half in range(2)
        ]  # fmt: skip
        return halves[0] + halves[1]


def _ramp(first: int, lanes: int) -> Expr:
    return tirx.Ramp(as_index(first), as_index(1), lanes) if lanes > 1 else as_index(first)
