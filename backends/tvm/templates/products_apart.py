"""Matrix products on SSE: sums of even and of odd elements along K, a few columns at a time.

A tile of many rows by one vector is what SSE multiplies fastest: `movddup` broadcasts a pair of a
row's elements from memory, and nothing is copied or shuffled (see `apart`, and what loops by hand
reach in `benchmarks/results/inner_loops.md`). With two sums for each, a vector is two columns. The
rows stay in the first-level cache while the columns of a panel are passed, a vector after the
other; their sums, added up, wait in memory on the stack for what follows the product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.apart import SUMS, Apart, overwrites
from optc.backends.tvm.templates.dot import Dot
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.tile import FLOATS, Tile
from optc.ir.targets.target import Target

_ALONE = 1  # register beside sums and weights, where a pair is multiplied in its own
_SEVERAL = 3  # and where it is copied for each vector but the last
_UNITS = 2.0  # products in a cycle, each a multiplication and an addition
_STARTED = 5.45  # instructions in a cycle; measured on Zen 5, as are the others
_COPY = 0.25  # of a pair, beside its own instruction
_LOOP = 0.75  # instructions of a step, several of which make an iteration
_WAIT = 3.0  # cycles until a sum may be added to again
_END = 1.2  # cycles to clear, add up and store a vector of sums
_START = 25.0  # cycles of a pass: its loop, which ends unforeseen

_APART = Apart(negated=True)


def in_two(target: Target, dot: Dot) -> Dot | None:
    """The same with two sums for each result, where that is what the target multiplies best."""
    if dot != FLOATS or not overwrites(target) or target.fma:
        return None
    return replace(dot, group=SUMS, apart=True)


def most_rows(target: Target, together: int) -> int:
    """Rows of a tile of so many vectors."""
    free = target.vector_registers - together - (_ALONE if together == 1 else _SEVERAL)
    return free // together


def pass_cycles(rows: float, together: int, steps: float) -> float:
    """Estimated cycles of one pass; `steps` are pairs of elements."""
    sums, copies = rows * together, rows * (together - 1)
    instructions = 2 * sums + rows + together + copies * (1 + _COPY) + _LOOP
    step = max(sums / _UNITS, instructions / _STARTED, _WAIT)
    return step * steps + _END * sums + _START


@dataclass(frozen=True)
class Passes:
    """`tile.rows` rows by the columns of a panel, `together` vectors of two columns at a time."""

    code: Code
    tile: Tile
    together: int

    @property
    def columns(self) -> int:
        """Of a pass."""
        return self.together * self.tile.lanes // SUMS

    @property
    def count(self) -> int:
        """How many there are."""
        return -(-self.tile.columns // self.columns)

    def run(
        self,
        steps: int,
        unroll: int,
        left: Callable[[int, Expr], Expr],
        right: Callable[[Expr, Expr], Expr],
        keep: Callable[[int, Expr, Expr], None],
        ahead: Callable[[Expr], None] | None = None,
        along: Callable[[Expr], None] | None = None,
    ) -> None:
        """`keep(row, column, sum)` for sums of `steps` pairs, in vector loops along columns.

        `left(row, k)` is a pair of a row, `right(pass, place)` a vector of a pass's pairs of
        weights, which lie [k][column]. `ahead(pass)` asks for what is needed later, `along(i)` in
        the i-th block of `unroll` steps.
        """
        code, tile = self.code, self.tile
        blocks, rest = divmod(steps, unroll)
        with code.loop("pass", self.count) as number:
            if ahead:
                ahead(number)
            # Two rows side by side: they are added up together.
            sums = code.scratch("sums", (-(-tile.rows // 2), 2 * SUMS * self.columns), "float32")
            for row in range(tile.rows):
                side, first = self._place(row, 0)
                with code.vector("lane", SUMS * self.columns) as lane:
                    code.store(sums, (side, first * SUMS + lane), tirx.const(0, "float32"))
            step = partial(self._step, sums, left, partial(right, number))
            if blocks:
                with code.loop("k", blocks) as k:
                    if along:
                        along(number * blocks + k)
                    for i in range(unroll):
                        step(k * unroll + i)
            for i in range(rest):
                step(as_index(blocks * unroll + i))
            joined = _APART.joined(code, sums, tile.lanes)
            for row in range(tile.rows):
                side, first = self._place(row, 0)
                with code.vector("lane", self.columns) as lane:
                    keep(row, number * self.columns + lane, joined[side, first + lane])

    def _place(self, row: int, column: int) -> tuple[int, int]:
        """Of a sum among the sums of a pass."""
        return row // 2, row % 2 * self.columns + column

    def _step(
        self,
        sums: Buffer,
        left: Callable[[int, Expr], Expr],
        right: Callable[[Expr], Expr],
        k: Expr,
    ) -> None:
        code, lanes = self.code, self.tile.lanes // SUMS
        for row in range(self.tile.rows):
            pair = code.bind(left(row, k), "pair")
            for first in range(0, self.columns, lanes):
                side, column = self._place(row, first)
                words = right(k * self.columns + first)
                _APART.add(code, sums, (as_index(side), as_index(column)), pair, words)
