"""Sums of products, tiled: matrix products, convolutions, the two products of attention.

A fold is a contraction when its source is a * b and some axes of the result touch only a (rows),
others only b (columns). Both are found from the expressions, so one scheme serves every op, with
whatever is fused before and behind it. A block computes a tile of rows x columns; slices of a and b
along the folded axes go through shared memory, each thread keeps a small tile in registers (Volkov
and Demmel 2008, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Call, Expr, Var
from tvm.tirx import Buffer

from optc.backends.tvm.cuda.grid import Grid, ceil_div
from optc.backends.tvm.cuda.schemes import guarded
from optc.backends.tvm.cuda.task import Step
from optc.backends.tvm.templates.accesses import axes_of, walk
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.templates.nest import unravel

_LEAST = 8  # rows, columns and folded elements below which tiles stay empty
_PAD = 1  # elements behind a row of a slice, so that columns fall into different banks
_EDGE = 24  # cost of a tile's edge against its area: slices are read from memory once for each tile


@dataclass(frozen=True)
class Tile:
    """Rows, columns and depth of a block's tile; rows and columns of a thread's."""

    m: int
    n: int
    k: int
    rows: int
    columns: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.m // self.rows * (self.n // self.columns)


_TILES = (
    Tile(128, 128, 8, 8, 8),
    Tile(128, 64, 8, 8, 4),
    Tile(64, 128, 8, 4, 8),
    Tile(64, 64, 16, 4, 4),
    Tile(32, 64, 16, 4, 4),
    Tile(64, 32, 16, 4, 4),
    Tile(32, 32, 16, 2, 4),
    Tile(16, 64, 16, 2, 4),
    Tile(64, 16, 16, 4, 2),
    Tile(16, 16, 16, 1, 2),
)


@dataclass(frozen=True, eq=False)
class Factor:
    """One of the two: an expression over the fold's axes, and the result's axes it alone knows."""

    value: Expr
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Contraction:
    """A step as batch x rows x columns; the axes of the first are those that both factors know."""

    step: Step
    batch: tuple[int, ...]
    left: Factor  # knows the rows
    right: Factor  # knows the columns

    def size(self, axes: Sequence[int]) -> int:
        """Points of some axes."""
        return math.prod(self.step.extents[axis] for axis in axes)


def contraction_of(step: Step) -> Contraction | None:
    """The step as a contraction, or None."""
    fold = step.fold
    if fold is None or len(fold.body) != 1 or not _is_sum(fold):
        return None
    values = _factors(fold.body[0].source[0])
    if values is None:
        return None
    variables = [Var(f"p{n}", "int32") for n in range(len(step.extents))]
    index = step.fold_index(variables)
    touched = {a.var: _among(at, variables) for a, at in zip(fold.axis, index, strict=True)}
    known = [{n for v in variables_of(f) for n in touched.get(v, ())} for f in values]
    wide = [n for n, extent in enumerate(step.extents) if extent > 1]
    own = [tuple(n for n in wide if n in a and n not in b) for a, b in (known, known[::-1])]
    batch = tuple(n for n in range(len(step.extents)) if n not in (*own[0], *own[1]))
    factors = [Factor(value, axes) for value, axes in zip(values, own, strict=True)]
    # Neighbours in the result are columns: a warp writes them together.
    left, right = sorted(factors, key=lambda factor: max(factor.axes, default=-1))
    found = Contraction(step, batch, left, right)
    least = min(found.size(left.axes), found.size(right.axes), math.prod(step.reduced))
    return None if least < _LEAST else found


def _is_sum(fold: te.ComputeOp) -> bool:
    reducer = fold.body[0].combiner
    (result,) = reducer.result
    (start,) = reducer.identity_element
    zero = isinstance(start, tirx.FloatImm | tirx.IntImm) and start.value == 0
    return zero and isinstance(result, tirx.Add) and str(start.ty.dtype) != "bool"


def _factors(source: Expr) -> tuple[Expr, Expr] | None:
    """a and b of a * b; a guard stays with the factor that knows its axes."""
    if isinstance(source, tirx.Mul):
        return source.a, source.b
    if isinstance(source, Call) and source.op.name == "prim.if_then_else":
        condition, product, zero = source.args
        inner = _factors(product)
        if inner is None or not isinstance(zero, tirx.FloatImm | tirx.IntImm) or zero.value != 0:
            return None
        guards = variables_of(condition)
        for place, factor in enumerate(inner):
            if guards <= variables_of(factor):
                kept = tirx.if_then_else(condition, factor, zero)
                return (kept, inner[1]) if place == 0 else (inner[0], kept)
    return None


def variables_of(value: Expr) -> set[Var]:
    """The variables that an expression reads."""
    found: set[Var] = set()
    tvm_ffi.structural_walk(value, (Var, found.add))
    return found


def _among(value: Expr, variables: Sequence[Var]) -> set[int]:
    inside = variables_of(value)
    return {n for n, variable in enumerate(variables) if variable in inside}


def tile_of(contraction: Contraction, processors: int) -> Tile:
    """The tile that takes the fewest turns on the GPU's processors, larger ones first."""
    m, n = contraction.size(contraction.left.axes), contraction.size(contraction.right.axes)
    batch = contraction.size(contraction.batch)

    def cost(tile: Tile) -> float:
        blocks = batch * ceil_div(m, tile.m) * ceil_div(n, tile.n)
        turns = ceil_div(blocks, processors)
        return turns * (tile.m * tile.n + _EDGE * (tile.m + tile.n))

    return min(_TILES, key=cost)


def emit_contraction(contraction: Contraction, tile: Tile) -> None:
    """Add the launch to the task."""
    _Emission(contraction, tile).run()


class Coordinates:
    """Points of a contraction in a block's batch; `order` is that of the folded axes."""

    def __init__(
        self, contraction: Contraction, code: Code, number: Expr, order: Sequence[int]
    ) -> None:
        self.contraction, self.step, self.code = contraction, contraction.step, code
        self.order = order
        self.batch = unravel(code, number, [self.step.extents[n] for n in contraction.batch])

    def element(self, factor: Factor, at: Expr, k: Expr) -> Expr:
        """The factor at the `at`-th point of its axes, and the `k`-th of the folded axes."""
        reduced = self.step.reduced
        places = unravel(self.code, k, [reduced[n] for n in self.order])
        inner = [place for _, place in sorted(zip(self.order, places, strict=True))]
        return self.step.source(None, factor.value, self.point(self.spread(factor.axes, at)), inner)

    def spread(self, axes: Sequence[int], at: Expr) -> dict[int, Expr]:
        """Coordinates along `axes` of their `at`-th point."""
        extents = [self.step.extents[axis] for axis in axes]
        return dict(zip(axes, unravel(self.code, at, extents), strict=True))

    def point(self, known: Mapping[int, Expr]) -> list[Expr]:
        """A point of the result in this block's batch; what is not known is 0: nobody reads it."""
        known = {**dict(zip(self.contraction.batch, self.batch, strict=True)), **known}
        return [known.get(n, tirx.const(0, "int32")) for n in range(len(self.step.extents))]


class _Emission:
    def __init__(self, contraction: Contraction, tile: Tile) -> None:
        self.contraction, self.tile = contraction, tile
        self.step = contraction.step
        self.m = contraction.size(contraction.left.axes)
        self.n = contraction.size(contraction.right.axes)
        self.k = math.prod(self.step.reduced)
        self.row_tiles, self.column_tiles = ceil_div(self.m, tile.m), ceil_div(self.n, tile.n)
        blocks = contraction.size(contraction.batch) * self.row_tiles * self.column_tiles
        self.grid = Grid(blocks, tile.threads)
        self.code = self.grid.code
        (self.dtype,) = self.step.reducer.dtypes
        tiles = self.row_tiles * self.column_tiles
        code, block, thread = self.code, self.grid.block, self.grid.thread
        number = code.bind(tirx.floordiv(block, tiles), "batch")
        self.at = Coordinates(contraction, code, number, range(len(self.step.reduced)))
        # Neighbouring blocks share the slice of the right factor.
        within = tirx.floormod(block, tiles)
        self.row = code.bind(tirx.floormod(within, self.row_tiles) * tile.m, "row")
        self.column = code.bind(tirx.floordiv(within, self.row_tiles) * tile.n, "column")
        # A thread's rows and columns lie apart, so that neighbours read neighbouring banks.
        self.down, self.across = tile.m // tile.rows, tile.n // tile.columns
        self.my_row = code.bind(tirx.floordiv(thread, self.across), "my_row")
        self.my_column = code.bind(tirx.floormod(thread, self.across), "my_column")

    def run(self) -> None:
        tile, code, contraction = self.tile, self.code, self.contraction
        left = self.grid.shared("left", (tile.k, tile.m + _PAD), self.dtype)
        right = self.grid.shared("right", (tile.k, tile.n + _PAD), self.dtype)
        sums = code.scratch("sums", (tile.rows, tile.columns), self.dtype)
        with code.unrolled("i", tile.rows) as i, code.unrolled("j", tile.columns) as j:
            code.store(sums, (i, j), tirx.const(0, self.dtype))
        with code.loop("slice", ceil_div(self.k, tile.k)) as number:
            depth = code.bind(number * tile.k, "depth")
            self.load(left, contraction.left, tile.m, self.row, depth)
            self.load(right, contraction.right, tile.n, self.column, depth)
            self.grid.sync()
            self.multiply(left, right, sums)
            self.grid.sync()
        self.drain(sums)
        self.step.task.add(self.grid)

    def multiply(self, left: Buffer, right: Buffer, sums: Buffer) -> None:
        """One slice into the thread's sums."""
        code, tile = self.code, self.tile
        with code.unrolled("kk", tile.k) as kk:
            a = code.scratch("a", (tile.rows,), self.dtype)
            b = code.scratch("b", (tile.columns,), self.dtype)
            with code.unrolled("i", tile.rows) as i:
                code.store(a, (i,), left[kk, i * self.down + self.my_row])
            with code.unrolled("j", tile.columns) as j:
                code.store(b, (j,), right[kk, j * self.across + self.my_column])
            with code.unrolled("i", tile.rows) as i, code.unrolled("j", tile.columns) as j:
                code.store(sums, (i, j), sums[i, j] + a[i] * b[j])

    def load(self, target: Buffer, factor: Factor, width: int, start: Expr, depth: Expr) -> None:
        """A slice of a factor into shared memory, zeros beyond its edges."""
        code, tile, threads = self.code, self.tile, self.tile.threads
        extent, total = self.contraction.size(factor.axes), width * tile.k
        turns = ceil_div(total, threads)
        with code.unrolled("turn", turns) as turn:
            place = turn * threads + self.grid.thread
            with guarded(code, place, total, turns * threads) as place:
                if self._runs_along_depth(factor):
                    k, at = tirx.floormod(place, tile.k), tirx.floordiv(place, tile.k)
                else:
                    k, at = tirx.floordiv(place, width), tirx.floormod(place, width)
                k, at = code.bind(k, "k"), code.bind(at, "at")
                ragged = []
                if extent % width:
                    ragged.append(start + at < extent)
                if self.k % tile.k:
                    ragged.append(depth + k < self.k)
                for inside, context in code.cases(
                    tirx.all(*ragged) if ragged else tirx.const(True, "bool"),
                    (1, True),
                    (len(ragged), False),
                ):
                    with context:
                        value = self.at.element(factor, start + at, depth + k) if inside else None
                        code.store(target, (k, at), self._zero if value is None else value)

    @property
    def _zero(self) -> Expr:
        return tirx.const(0, self.dtype)

    def _runs_along_depth(self, factor: Factor) -> bool:
        """Whether neighbours in memory are neighbours along the innermost folded axis."""
        (at, k) = axes_of([self.step.extents[factor.axes[-1]], self.step.reduced[-1]])
        zero = tirx.const(0, "int32")
        point = self.at.point({factor.axes[-1]: at.var})
        inner = [*([zero] * (len(self.step.reduced) - 1)), k.var]
        loads = walk([at, k], lambda _: self.step.source(None, factor.value, point, inner)).accesses
        strides = [access.strides for access in loads]
        return sum(step[1] == 1 for step in strides) > sum(step[0] == 1 for step in strides)

    def drain(self, sums: Buffer) -> None:
        """Write the thread's sums, with what is fused behind them."""
        code, tile, contraction = self.code, self.tile, self.contraction
        with code.unrolled("i", tile.rows) as i, code.unrolled("j", tile.columns) as j:
            r, c = (
                self.row + i * self.down + self.my_row,
                self.column + j * self.across + self.my_column,
            )
            with (
                guarded(code, r, self.m, self.row_tiles * tile.m) as row,
                guarded(code, c, self.n, self.column_tiles * tile.n) as column,
            ):
                known = self.at.spread(contraction.left.axes, row)
                known |= self.at.spread(contraction.right.axes, column)
                self.step.finish(code, self.at.point(known), [code.bind(sums[i, j], "sum")])
