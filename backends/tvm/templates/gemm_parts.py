"""Products whose sums are cut along K, a part for each core, and added up row by row.

Where one core holds the first columns of the left side and another the rest, as a product before it
that was shared out by columns leaves them, each sums up what it has: partial sums of every result
cross from core to core instead of the left side, which is larger (the split of a transformer's
second products by Shoeybi et al. 2019, within one machine). Rows are then whole in one core, where
the norm that follows finds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.places import Coordinate, Lane, plain
from optc.backends.tvm.templates.tile import Tile

Finish = Callable[[Expr, Coordinate, Expr], None]


@dataclass(frozen=True)
class Parts:
    """Partial sums [part, row, column] of a product."""

    code: Code
    sums: Buffer
    lanes: int

    @staticmethod
    def of(code: Code, count: int, rows: int, columns: int, dtype: str, lanes: int) -> Parts:
        """Memory for them."""
        width = -(-columns // lanes) * lanes
        return Parts(code, code.scratch("parts", (count, rows, width), dtype, "global"), lanes)

    def keep(self, part: Expr, row: Expr, start: Expr) -> Finish:
        """Stores a tile that begins at (row, start)."""

        def finish(r: Expr, column: Coordinate, value: Expr) -> None:
            (place,) = plain([column])
            self.code.store(self.sums, (part, row + r, start + place), value)

        return finish

    def add_up(self, columns: int, finish: Finish) -> None:
        """`finish(row, column, sum)` for every result, rows shared among threads."""
        code, lanes = self.code, self.lanes
        count, rows = (int(extent) for extent in self.sums.shape[:2])
        whole, rest = divmod(columns, lanes)

        def vector(row: Expr, first: Expr, width: int) -> None:
            with code.vector("lane", width) as lane:
                total = self.sums[0, row, first + lane]
                for part in range(1, count):
                    total = total + self.sums[part, row, first + lane]
                finish(row, Lane(first, lane, width), total)

        with code.parallel("row", rows) as row:
            if whole:
                with code.loop("v", whole) as v:
                    vector(row, code.bind(v * lanes, "first"), lanes)
            for first, width in Tile(1, rest, lanes).pieces():
                vector(row, as_index(whole * lanes + first), width)


def part_of(code: Code, item: Expr, parts: int, size: int) -> tuple[Expr, Expr]:
    """The part that an item belongs to, and its place among the `size` items of that part."""
    if parts == 1:
        return as_index(0), item
    part = code.bind(tirx.floordiv(item, size), "part")
    return part, code.bind(item - part * size, "item")
