"""The register tile of matrix products and convolutions: sums in registers over a long loop.

A tile is `rows` x `vectors` vector registers. Every step of the inner loop loads `vectors` vectors
of weights, broadcasts `rows` elements of the left side, and does rows * vectors multiply-adds.

By pairs, a vector of sums belongs to two rows and two columns: a step loads twice the vectors of
weights and half as many of the left side, none of which it broadcasts, and goes two words along K.
Sums are put in rows behind the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.dot import Dot
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.places import Coordinate, Lane
from optc.ir.dtype import DType
from optc.ir.targets.target import Arch, Target

FLOATS = Dot(DType.F32, DType.F32, DType.F32)


@dataclass(frozen=True, slots=True)
class Spread:
    """A word of a row for each column."""

    words: Buffer


Word: TypeAlias = Expr | Spread
# Epilogues of more operations per element run as a loop over rows: unrolled they would swell code.
_UNROLLED_EPILOGUE = 4
_STARTED = 5.3  # of those instructions in a cycle, measured on Zen 5
_UNITS = 2  # that multiply and add
_ROOM = 8  # registers for several sums of a result, where there are sixteen in all
_STEPS_OF_A_SUM = 4  # fewer are not worth adding up several sums


@dataclass(frozen=True, slots=True)
class Tile:
    """`rows` x `columns` results; the columns fill whole vectors of `lanes`, the last maybe not."""

    rows: int
    columns: int
    lanes: int

    @property
    def vectors(self) -> int:
        """Vector registers per row."""
        return -(-self.columns // self.lanes)

    @property
    def width(self) -> int:
        """Columns including the unused ones of the last vector."""
        return self.vectors * self.lanes

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(first column, lanes) of the vectors, the last one cut into powers of two."""
        for first in range(0, self.columns, self.lanes):
            left, at = min(self.lanes, self.columns - first), first
            while left:
                lanes = min(self.lanes, 1 << (left.bit_length() - 1))
                yield at, lanes
                at, left = at + lanes, left - lanes


def broadcasts_lanes(target: Target) -> bool:
    """Whether rows' elements are best loaded as vectors along K, and broadcast from their lanes.

    ARM multiplies by a lane. x86 before AVX has no broadcast from memory, but shuffles a register.
    """
    return target.arch in (Arch.AARCH64, Arch.ARMV7) or not target.fma


_LINE = 64  # bytes of a cache line
_SET_SPAN = 4096  # bytes after which addresses fall into the same sets again: a page, on most CPUs


def register_rows(target: Target, vectors: int, dot: Dot = FLOATS) -> int:
    """The most rows of a tile that leave room for the vectors of weights and rows' elements.

    Without a fused multiply-add the product takes one register more.
    """
    fused = dot.adds if dot.intrinsic else target.fma
    free = target.vector_registers - vectors - (0 if fused else 1)
    if dot.pairs:
        return 2 * max(1, (free - vectors - 1) // (2 * vectors + 1))
    if broadcasts_lanes(target):
        return max(1, free // (vectors + 1))
    return max(1, (free - 1) // vectors)


def rows_without_conflict(target: Target, stride: int) -> int:
    """The most rows, `stride` bytes apart, whose elements the first cache holds side by side.

    Addresses that differ by a multiple of a page's size fall into one set of it, which has as many
    places as the cache has pages; one place is left to the weights that stream by.
    """
    sets = _SET_SPAN // math.gcd(stride, _SET_SPAN)
    places = max(2, target.cache("l1", 32 * 1024) // _SET_SPAN)
    return min(sets, _SET_SPAN // _LINE) * (places - 1)


def tile_cycles(
    rows: float,
    vectors: float,
    steps: float,
    cost: float = 1.0,
    fused: bool = True,
    latency: int = FLOATS.latency,
    room: int = _ROOM,
) -> float:
    """Estimated cycles of one tile: two multiply-adds and two loads start per cycle.

    A step's product costs as much as `cost` multiply-adds. Not `fused`, it is a copy or a
    load, a product and an addition, and a broadcast is a copy and a shuffle.

    A sum that is added to every cycle waits for its last addition, `latency` cycles; small tiles
    keep several sums, in `room` registers.
    """
    sums = rows * vectors
    count = ways(sums, steps, latency, room)
    step = max(sums * cost / _UNITS, (rows + vectors) / 2, latency / count)
    if not fused:
        step = max(step, (3 * sums * cost + 2 * rows) / _STARTED)
    return step * steps + edge_cycles(rows, vectors)


def edge_cycles(rows: float, vectors: float) -> float:
    """Estimated cycles to start and finish a tile."""
    return 3 * rows * vectors + 40


def ways(sums: float, steps: float, latency: int = FLOATS.latency, room: int = _ROOM) -> int:
    """Sums to keep for each result, so that additions need not wait; all of them in `room`.

    As many as keep the units busy, and a few more if these divide the steps: what remains behind
    the loop is code of its own.
    """
    busy = _UNITS * latency
    most = int(min(room, busy * 3 // 2) / sums)
    if sums >= busy or most < 2:
        return 1
    fewest = min(most, math.ceil(busy / sums))
    count = next((n for n in range(fewest, most + 1) if steps % n == 0), fewest)
    few = max(1, int(steps) // _STEPS_OF_A_SUM)
    return count if count <= few else 1 << (few.bit_length() - 1)


def block_of(unroll: int, count: int) -> int:
    """Steps of an iteration that goes `count` ways: `unroll` of them, or as many as are even."""
    return -(-unroll // count) * count


def accumulate(
    code: Code,
    tile: Tile,
    extent: int,
    unroll: int,
    left: Callable[[int, Expr], Word],
    right: Callable[[Expr, Expr], Expr],
    dot: Dot = FLOATS,
    padded: bool = True,
    by_lanes: Callable[[Buffer, int, Expr], None] | None = None,
    ahead: Callable[[Expr], None] | None = None,
    start: Callable[[Expr], Expr] | None = None,
    room: int = _ROOM,
) -> Buffer:
    """Sums over 0 <= k < extent of left(row, k) times right(k, column), in registers.

    Both give words, which `dot` multiplies and adds; `left` may give them spread over the columns.
    `right` may be asked for columns beyond the last if it is `padded`. `by_lanes(buffer, row, k)`
    fills a buffer with a row's next words. `ahead(i)` is called in the i-th block of `unroll`
    steps. A column's sums start at `start(column)`, or 0. Small tiles may keep several sums of a
    result in `room` registers. Answers with the tile's sums, shape (rows, width): every index into
    them must be constant after unrolling.
    """
    sums = _Accumulation(code, tile, left, right, dot, padded, by_lanes, ahead, start, room)
    return sums.run(extent, unroll)


@dataclass
class _Accumulation:
    code: Code
    tile: Tile
    left: Callable[[int, Expr], Word]
    right: Callable[[Expr, Expr], Expr]
    dot: Dot
    padded: bool
    by_lanes: Callable[[Buffer, int, Expr], None] | None
    ahead: Callable[[Expr], None] | None
    start: Callable[[Expr], Expr] | None
    room: int

    @property
    def dtype(self) -> str:
        return tvm_dtype(self.dot.sum)

    def run(self, extent: int, unroll: int) -> Buffer:
        """Emit the loop."""
        if self.dot.pairs:
            return self._by_pairs(extent // 2, max(1, unroll // 2))
        code, tile = self.code, self.tile
        count = ways(tile.rows * tile.vectors, extent, self.dot.latency, self.room)
        unroll = block_of(unroll, count)
        shape = (tile.rows, tile.width)
        sums = [code.scratch("sums", shape, self.dtype) for _ in range(count)]
        for number, each in enumerate(sums):
            self._each(partial(self._clear, each, self.start if number == 0 else None))
        blocks, rest = divmod(extent, unroll)
        if blocks:
            with code.loop("k", blocks) as k:
                if self.ahead:
                    self.ahead(k)
                elements = self._elements(k * unroll, unroll)
                for i in range(unroll):
                    self._step(sums[i % count], k * unroll + i, elements(i))
        for i in range(rest):
            k = as_index(blocks * unroll + i)
            self._step(sums[i % count], k, [self.left(row, k) for row in range(tile.rows)])
        for other in sums[1:]:
            self._each(partial(self._join, sums[0], other))
        return sums[0]

    def _by_pairs(self, steps: int, unroll: int) -> Buffer:
        """The loop over pairs of words; then sums in rows, by moves between registers."""
        code, tile = self.code, self.tile
        quads = code.scratch("pairs", (-(-tile.rows // 2), 2 * tile.width), self.dtype)
        for pair, first in self._quads():
            with code.vector("lane", 4) as lane:
                self._clear(quads, None, (pair, first + lane))
        blocks, rest = divmod(steps, unroll)
        if blocks:
            with code.loop("k", blocks) as k:
                if self.ahead:
                    self.ahead(k)
                for i in range(unroll):
                    self._step_of_pairs(quads, (k * unroll + i) * 2)
        for i in range(rest):
            self._step_of_pairs(quads, as_index((blocks * unroll + i) * 2))
        return in_rows(code, tile, quads)

    def _quads(self) -> Iterator[tuple[int, int]]:
        """(pair of rows, first word) of each vector of sums."""
        for pair in range(-(-self.tile.rows // 2)):
            for first in range(0, 2 * self.tile.width, 4):
                yield pair, first

    def _step_of_pairs(self, quads: Buffer, k: Expr) -> None:
        code, left = self.code, {}
        assert self.by_lanes is not None
        for pair in range(-(-self.tile.rows // 2)):
            left[pair] = code.scratch("left", (4,), self.dot.left_word)
            for side in range(2):
                half = code.scratch("half", (2,), self.dot.left_word)
                # Of a last row alone, the second half of the sums is never read.
                self.by_lanes(half, min(2 * pair + side, self.tile.rows - 1), k)
                with code.vector("lane", 2) as lane:
                    code.store(left[pair], (2 * side + lane,), half[lane])
        for pair, first in self._quads():
            with code.vector("lane", 4) as lane:
                at = (pair, first + lane)
                added = self.dot.add(quads[at], left[pair][lane], self.right(k, first + lane))
                code.store(quads, at, added)

    def _clear(
        self, sums: Buffer, start: Callable[[Expr], Expr] | None, at: tuple[int, Expr]
    ) -> None:
        self.code.store(sums, at, start(at[1]) if start else tirx.const(0, self.dtype))

    def _join(self, sums: Buffer, other: Buffer, at: tuple[int, Expr]) -> None:
        self.code.store(sums, at, sums[at] + other[at])

    def _each(self, body: Callable[[tuple[int, Expr]], None]) -> None:
        """`body((row, column))` for each vector of results."""
        tile = self.tile
        vectors = [(v * tile.lanes, tile.lanes) for v in range(tile.vectors)]
        for row in range(tile.rows):
            for first, lanes in vectors if self.padded else tile.pieces():
                with self.code.vector("lane", lanes) as lane:
                    body((row, first + lane))

    def _elements(self, k: Expr, count: int) -> Callable[[int], list[Word]]:
        """The rows' elements of `count` steps, by step."""
        code, rows = self.code, range(self.tile.rows)
        if self.by_lanes is None or count == 1:
            return lambda i: [self.left(row, k + i) for row in rows]
        loaded = [code.scratch("left", (count,), self.dot.left_word) for _ in rows]
        for row in rows:
            self.by_lanes(loaded[row], row, k)
        return lambda i: [loaded[row][i] for row in rows]

    def _step(self, sums: Buffer, k: Expr, words: Sequence[Word]) -> None:
        code = self.code
        words = [word if isinstance(word, Spread) else code.bind(word, "left") for word in words]

        def add(at: tuple[int, Expr]) -> None:
            row, column = at
            word = words[row]
            left = word.words[column] if isinstance(word, Spread) else word
            code.store(sums, at, self.dot.add(sums[at], left, self.right(k, column)))

        self._each(add)


def in_rows(code: Code, tile: Tile, quads: Buffer) -> Buffer:
    """Sums by pairs, each vector of two rows and two columns, as (rows, width)."""
    sums = code.scratch("sums", (tile.rows, tile.width), quads.dtype)
    for row in range(tile.rows):
        for column in range(tile.width):
            place = 4 * (column // 2) + 2 * (row % 2) + column % 2
            code.store(sums, (row, column), quads[row // 2, place])
    return sums


def drain(
    code: Code,
    tile: Tile,
    sums: Buffer,
    finish: Callable[[Expr, Coordinate, Expr], None],
    epilogue_size: int,
    by_column: bool = False,
    ready: bool = False,
) -> None:
    """Call `finish(row, column, value)` for all results, inside vector loops along columns.

    `by_column`: along rows instead, for results that are stored transposed. `ready`: sums lie in
    memory, not in registers.
    """
    if by_column:
        _drain_columns(code, tile, sums if ready else _copied(code, tile, sums), finish)
        return
    if epilogue_size * tile.rows <= _UNROLLED_EPILOGUE * 8:
        for row in range(tile.rows):
            _drain_row(code, tile, sums, as_index(row), finish)
        return
    copy = sums if ready else _copied(code, tile, sums)
    with code.loop("row", tile.rows) as row:
        _drain_row(code, tile, copy, row, finish)


def _copied(code: Code, tile: Tile, sums: Buffer) -> Buffer:
    """An index that is not constant would force the sums out of registers: a copy takes it."""
    copy = code.scratch("finished", (tile.rows, tile.width), sums.dtype)
    for row in range(tile.rows):
        for vector in range(tile.vectors):
            with code.vector("lane", tile.lanes) as lane:
                at = (row, vector * tile.lanes + lane)
                code.store(copy, at, sums[at])
    return copy


def _drain_columns(
    code: Code, tile: Tile, copy: Buffer, finish: Callable[[Expr, Coordinate, Expr], None]
) -> None:
    with code.loop("column", tile.columns) as column:
        for first, lanes in Tile(1, tile.rows, tile.lanes).pieces():
            with code.vector("lane", lanes) as lane:
                finish(first + lane, column, copy[first + lane, column])


def _drain_row(
    code: Code,
    tile: Tile,
    sums: Buffer,
    row: Expr,
    finish: Callable[[Expr, Coordinate, Expr], None],
) -> None:
    for first, lanes in tile.pieces():
        with code.vector("lane", lanes) as lane:
            finish(row, Lane(as_index(first), lane, lanes), sums[row, first + lane])
