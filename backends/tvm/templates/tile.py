"""The register tile of matrix products and convolutions: sums in registers over a long loop.

A tile is `rows` x `vectors` vector registers. Every step of the inner loop loads `vectors` vectors
of weights, broadcasts `rows` elements of the left side, and does rows * vectors multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.places import Coordinate, Lane
from optc.ir.targets.target import Target

# Epilogues of more operations per element run as a loop over rows: unrolled they would swell code.
_UNROLLED_EPILOGUE = 4


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


def register_rows(target: Target, vectors: int) -> int:
    """The most rows of a tile that leave room for the vectors of weights and a broadcast.

    Without a fused multiply-add the product takes one register more.
    """
    free = target.vector_registers - vectors - (1 if target.fma else 2)
    return max(1, free // vectors)


def tile_cycles(rows: float, vectors: float, steps: int) -> float:
    """Estimated cycles of one tile: two multiply-adds and two loads start per cycle.

    A sum that is added to every cycle waits for its last addition, four cycles. Starting and
    finishing a tile costs some dozens of cycles.
    """
    step = max(rows * vectors / 2, (rows + vectors) / 2, 4.0)
    return step * steps + 3 * rows * vectors + 40


def accumulate(
    code: Code,
    tile: Tile,
    extent: int,
    unroll: int,
    left: Callable[[int, Expr], Expr],
    right: Callable[[Expr, Expr], Expr],
    dtype: str = "float32",
    start: Callable[[Expr], Expr] | None = None,
    padded: bool = True,
) -> Buffer:
    """Sums over 0 <= k < extent of left(row, k) * right(k, column), in registers.

    `start(column)` gives the first value of a column (a bias); zero without it. `right` may be
    asked for columns beyond the last if it is `padded`. Answers with the tile's sums, shape (rows,
    width): every index into them must be constant after unrolling.
    """
    vectors = [(v * tile.lanes, tile.lanes) for v in range(tile.vectors)]
    vectors = vectors if padded else list(tile.pieces())
    sums = code.scratch("sums", (tile.rows, tile.width), dtype)

    def each(body: Callable[[int, Expr], None]) -> None:
        for row in range(tile.rows):
            for first, lanes in vectors:
                with code.vector("lane", lanes) as lane:
                    body(row, first + lane)

    def clear(row: int, column: Expr) -> None:
        code.store(sums, (row, column), start(column) if start else tirx.const(0, dtype))

    def step(k: Expr) -> None:
        elements = [code.bind(left(row, k), "left") for row in range(tile.rows)]
        each(lambda r, c: code.store(sums, (r, c), sums[r, c] + elements[r] * right(k, c)))

    each(clear)
    blocks, rest = divmod(extent, unroll)
    if blocks:
        with code.loop("k", blocks) as k:
            for i in range(unroll):
                step(k * unroll + i)
    for i in range(rest):
        step(as_index(blocks * unroll + i))
    return sums


def drain(
    code: Code,
    tile: Tile,
    sums: Buffer,
    finish: Callable[[Expr, Coordinate, Expr], None],
    epilogue_size: int,
) -> None:
    """Call `finish(row, column, value)` inside vector loops that cover the tile's columns."""
    if epilogue_size * tile.rows <= _UNROLLED_EPILOGUE * 8:
        for row in range(tile.rows):
            _drain_row(code, tile, sums, as_index(row), finish)
        return
    # An index that is not constant would force the sums out of registers: a copy takes it.
    copy = code.scratch("finished", (tile.rows, tile.width), sums.dtype)
    for row in range(tile.rows):
        for vector in range(tile.vectors):
            with code.vector("lane", tile.lanes) as lane:
                at = (row, vector * tile.lanes + lane)
                code.store(copy, at, sums[at])
    with code.loop("row", tile.rows) as row:
        _drain_row(code, tile, copy, row, finish)


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
