"""The launch of a product on tensor cores: slices through shared memory, fragments in registers.

While a slice is multiplied, later ones are on their way: cp.async into other stages of shared
memory (NVIDIA, CUTLASS: "Efficient GEMM in CUDA", software pipelining). Rows of a slice are padded,
so that the eight rows that ldmatrix reads at once lie in different banks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.cuda.contraction import Coordinates, Factor
from optc.backends.tvm.cuda.grid import WARP, Grid, ceil_div, point_of
from optc.backends.tvm.cuda.schemes import guarded
from optc.backends.tvm.cuda.tensor_cores import (
    Layout,
    TensorPlan,
    guarded_load,
    narrowed,
)
from optc.backends.tvm.cuda.tensor_tiles import PAD, STEP
from optc.backends.tvm.dtypes import width_of
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import unravel

_THREADS = 256


def emit_tensor_product(plan: TensorPlan) -> None:
    """Add the launches to the task: one, and one more that sums the parts of a split."""
    step = plan.contraction.step
    if plan.splits == 1:
        _Emission(plan, None).run()
        return
    parts = step.task.memory("parts", [plan.splits, *step.extents], plan.sums)
    _Emission(plan, parts).run()
    total = math.prod(step.extents)
    grid = Grid(ceil_div(total, _THREADS), _THREADS)
    code = grid.code
    with guarded(code, point_of(grid), total, grid.blocks * _THREADS) as place:
        point = unravel(code, place, step.extents)
        whole = code.scratch("whole", (1,), plan.sums)
        code.store(whole, (0,), tirx.const(0, plan.sums))
        with code.loop("part", plan.splits) as part:
            code.store(whole, (0,), whole[0] + parts[(part, *point)])
        step.finish(code, point, [code.bind(whole[0], "sum")])
    step.task.add(grid)


class _Side:
    """One factor: its slices in shared memory, and how a block fills them."""

    def __init__(
        self, emission: _Emission, factor: Factor, layout: Layout, dtype: str, width: int
    ) -> None:
        self.emission, self.factor, self.layout, self.dtype = emission, factor, layout, dtype
        self.width = width  # rows or columns of the tile
        self.bytes = width_of(dtype)
        self.depth = emission.tile.depth // self.bytes
        self.extent = emission.contraction.size(factor.axes)
        self.pad = PAD // self.bytes
        self.pitch = width + self.pad if layout.turned else self.depth + self.pad
        self.size = (self.depth if layout.turned else width) * self.pitch
        stages = emission.tile.stages
        self.shared = emission.grid.shared("slices", (stages * self.size,), dtype)
        self.held: Buffer | None = None
        self.aligned: Expr | None = None

    def place(self, at: Expr, k: Expr) -> Expr:
        """Where an element lies in its slice."""
        return k * self.pitch + at if self.layout.turned else at * self.pitch + k

    def turns(self) -> int:
        """Vectors of a slice that each thread fetches."""
        return ceil_div(self.width * self.depth, self.layout.vector * self.emission.grid.threads)

    def each(self, code: Code, turn: Expr, body: Callable[[Expr, Expr], None]) -> None:
        """`body(at, k)` for the vector that this thread fetches in a turn."""
        vector, threads = self.layout.vector, self.emission.grid.threads
        total = self.width * self.depth // vector
        with guarded(
            code, turn * threads + self.emission.grid.thread, total, self.turns() * threads
        ) as place:
            if self.layout.along_depth:
                per_row = self.depth // vector
                at, k = tirx.floordiv(place, per_row), tirx.floormod(place, per_row) * vector
            else:
                per_row = self.width // vector
                k, at = tirx.floordiv(place, per_row), tirx.floormod(place, per_row) * vector
            body(code.bind(at, "at"), code.bind(k, "k"))

    def inside(self, start: Expr, at: Expr, depth: Expr, k: Expr) -> list[Expr]:
        """What must hold for a point of the slice to be one of the factor."""
        conditions = []
        if self.extent % self.width:
            conditions.append(start + at < self.extent)
        if self.emission.k % self.depth:
            conditions.append(depth + k < self.emission.k)
        return conditions

    def value(self, start: Expr, at: Expr, depth: Expr, k: Expr) -> Expr:
        """The element in the dtype that tensor cores take."""
        return narrowed(self.emission.at.element(self.factor, start + at, depth + k), self.dtype)

    def fetch(self, start: Expr, slice: Expr, stage: Expr) -> None:
        """Ask for a slice: copies that nobody waits for, or elements that are held."""
        code = self.emission.code
        depth = code.bind(slice * self.depth, "depth")
        if self.layout.vector == 1:
            self._hold(code, start, depth)
            return
        if self.aligned is None:
            raise AssertionError("alignment is asked for before the loop")
        with code.when(self.aligned):
            with code.unrolled("turn", self.turns()) as turn:
                self.each(code, turn, lambda at, k: self._copy(code, start, at, depth, k, stage))
        with code.otherwise(self.aligned), code.loop("turn", self.turns()) as turn:
            self.each(code, turn, lambda at, k: self._copy_each(code, start, at, depth, k, stage))

    def ask_alignment(self) -> None:
        """Whether the factor's address lets vectors be copied, computed once."""
        if self.layout.vector == 1:
            return
        code, zero = self.emission.code, as_index(0)
        load = self._load(zero, zero, zero, zero)[1]
        base = tirx.address_of(tirx.BufferLoad(load.source, [zero] * len(load.source.shape)))
        nbytes = as_index(self.layout.vector * self.bytes)
        asked = tirx.call_extern("int32", "optc_aligned", base, nbytes)
        home = code.scratch("aligned", (1,), "int32")
        code.store(home, (0,), asked)
        self.aligned = tirx.NE(home[0], as_index(0))

    def _load(self, start: Expr, at: Expr, depth: Expr, k: Expr):  # type: ignore[no-untyped-def]
        found = guarded_load(
            self.emission.at.element(self.factor, start + at, depth + k), self.dtype
        )
        assert found is not None
        return found

    def _copy(self, code: Code, start: Expr, at: Expr, depth: Expr, k: Expr, stage: Expr) -> None:
        conditions, load = self._load(start, at, depth, k)
        conditions = [*self.inside(start, at, depth, k), *conditions]
        inside = tirx.Cast("int32", tirx.all(*conditions)) if conditions else as_index(1)
        place = stage * self.size + self.place(at, k)
        target = tirx.address_of(tirx.BufferLoad(self.shared, [place]))
        name = f"optc_copy_{self.layout.vector * self.bytes}"
        call = tirx.call_extern("void", name, target, tirx.address_of(load), inside)
        code.add(tirx.Evaluate(call))

    def _copy_each(
        self, code: Code, start: Expr, at: Expr, depth: Expr, k: Expr, stage: Expr
    ) -> None:
        with code.loop("e", self.layout.vector) as e:
            here = (at, k + e) if self.layout.along_depth else (at + e, k)
            self._store(code, stage, *here, start, depth)

    def _store(self, code: Code, stage: Expr, at: Expr, k: Expr, start: Expr, depth: Expr) -> None:
        place = stage * self.size + self.place(at, k)
        for inside, context in self._cases(code, start, at, depth, k):
            with context:
                value = self.value(start, at, depth, k) if inside else self.zero
                code.store(self.shared, (place,), value)

    def _cases(self, code: Code, start: Expr, at: Expr, depth: Expr, k: Expr):  # type: ignore[no-untyped-def]
        ragged = self.inside(start, at, depth, k)
        condition = tirx.all(*ragged) if ragged else tirx.const(True, "bool")
        return code.cases(condition, (1, True), (len(ragged), False))

    @property
    def zero(self) -> Expr:
        """Nothing, as the slices hold it."""
        return tirx.Cast(self.dtype, tirx.const(0.0 if self.bytes == 2 else 0, "float32"))

    def _hold(self, code: Code, start: Expr, depth: Expr) -> None:
        assert self.held is not None
        with code.unrolled("turn", self.turns()) as turn:

            def keep(at: Expr, k: Expr) -> None:
                for inside, context in self._cases(code, start, at, depth, k):
                    with context:
                        value = self.value(start, at, depth, k) if inside else self.zero
                        code.store(self.held, (turn,), value)

            self.each(code, turn, keep)

    def put(self, stage: Expr) -> None:
        """Elements that were held go to shared memory."""
        code = self.emission.code
        if self.layout.vector > 1:
            return
        held = self.held
        assert held is not None
        with code.unrolled("turn", self.turns()) as turn:

            def store(at: Expr, k: Expr) -> None:
                place = stage * self.size + self.place(at, k)
                code.store(self.shared, (place,), held[turn])

            self.each(code, turn, store)


class _Emission:
    def __init__(self, plan: TensorPlan, parts: Buffer | None) -> None:
        self.plan, self.tile, self.parts = plan, plan.tile, parts
        self.contraction = contraction = plan.contraction
        self.step, tile = contraction.step, plan.tile
        self.m = contraction.size(contraction.left.axes)
        self.n = contraction.size(contraction.right.axes)
        self.k = math.prod(self.step.reduced)
        self.row_tiles, self.column_tiles = ceil_div(self.m, tile.m), ceil_div(self.n, tile.n)
        tiles = self.row_tiles * self.column_tiles * plan.splits
        self.grid = Grid(contraction.size(contraction.batch) * tiles, tile.threads)
        self.code = code = self.grid.code
        block, thread = self.grid.block, self.grid.thread
        number = code.bind(tirx.floordiv(block, tiles), "batch")
        self.at = Coordinates(contraction, code, number, plan.order)
        within = tirx.floormod(block, tiles)
        # Neighbouring blocks share the slice of the right factor.
        self.part = code.bind(tirx.floordiv(within, self.row_tiles * self.column_tiles), "part")
        within = tirx.floormod(within, self.row_tiles * self.column_tiles)
        self.row = code.bind(tirx.floormod(within, self.row_tiles) * tile.m, "row")
        self.column = code.bind(tirx.floordiv(within, self.row_tiles) * tile.n, "column")
        warp = code.bind(tirx.floordiv(thread, WARP), "warp")
        self.lane = code.bind(tirx.floormod(thread, WARP), "lane")
        down = tile.m // tile.rows
        self.warp_row = code.bind(tirx.floormod(warp, down) * tile.rows, "warp_row")
        self.warp_column = code.bind(tirx.floordiv(warp, down) * tile.columns, "warp_column")
        left, right = plan.layouts
        self.left = _Side(self, contraction.left, left, plan.dtypes[0], tile.m)
        self.right = _Side(self, contraction.right, right, plan.dtypes[1], tile.n)
        self.sides = ((self.left, self.row), (self.right, self.column))
        self.down, self.across = tile.rows // 16, tile.columns // 8

    def run(self) -> None:
        """Fill the pipeline, then a slice after the other; at the end the sums go to memory."""
        code, stages = self.code, self.tile.stages
        sums = code.scratch("sums", (self.down * self.across * 4,), self.plan.sums)
        with code.unrolled("i", self.down * self.across * 4) as i:
            code.store(sums, (i,), tirx.const(0, self.plan.sums))
        slices = ceil_div(self.k, self.left.depth)
        each = ceil_div(slices, self.plan.splits)
        first = code.bind(self.part * each, "first")
        count = each
        if slices % self.plan.splits:
            count = code.bind(tirx.min(as_index(each), slices - first), "count")
        for side, _ in self.sides:
            side.ask_alignment()
            if side.layout.vector == 1:
                side.held = code.scratch("held", (side.turns(),), side.dtype)
        bases = self._bases()
        with code.loop("stage", stages - 1) as stage:
            self._fetch(stage, count, first, stage)
            self._put(stage, count, stage)
            self._call("optc_commit")
        with code.loop("slice", count) as slice:
            ahead = slice + (stages - 1)
            stage = code.bind(tirx.floormod(ahead, stages), "stage")
            self._call(f"optc_wait<{stages - 2}>")
            self.grid.sync()
            self._fetch(ahead, count, first, stage)
            self._call("optc_commit")
            self.multiply(bases, tirx.floormod(slice, stages), sums)
            self._put(ahead, count, stage)
        self.drain(sums)
        self.step.task.add(self.grid)

    def _call(self, name: str) -> None:
        self.code.add(tirx.Evaluate(tirx.call_extern("void", name)))

    def _fetch(self, slice: Expr, count: Expr | int, first: Expr, stage: Expr) -> None:
        with self.code.when(slice < count):
            for side, start in self.sides:
                side.fetch(start, first + slice, stage)

    def _put(self, slice: Expr, count: Expr | int, stage: Expr) -> None:
        if all(side.layout.vector > 1 for side, _ in self.sides):
            return
        with self.code.when(slice < count):
            for side, _ in self.sides:
                side.put(stage)

    def _bases(self) -> tuple[Expr, Expr]:
        """Where a lane's row of the first matrices lies: PTX ISA 9.7.14.5.15.

        The four matrices of the left factor are (rows, depth) = (low, low), (high, low), (low,
        high), (high, high); those of the right (columns, depth) = (low, low), (low, high), (high,
        low), (high, high).
        """
        code = self.code
        line, second, third = (
            code.bind(value, "line")
            for value in (
                tirx.floormod(self.lane, 8),
                tirx.floormod(tirx.floordiv(self.lane, 8), 2),
                tirx.floordiv(self.lane, 16),
            )
        )
        half = STEP // 2 // self.left.bytes
        found = []
        for side, start, along, deep in (
            (self.left, self.warp_row, second, third),
            (self.right, self.warp_column, third, second),
        ):
            if side.layout.turned:
                place = side.place(start + along * 8, line + deep * half)
            else:
                place = side.place(start + line + along * 8, deep * half)
            found.append(code.bind(place, "base"))
        return found[0], found[1]

    def multiply(self, bases: tuple[Expr, Expr], stage: Expr, sums: Buffer) -> None:
        """One slice into the warp's sums."""
        code, step = self.code, STEP // self.left.bytes
        with code.unrolled("kk", self.tile.depth // STEP) as kk:
            a = code.scratch("a", (self.down * 4,), "uint32")
            b = code.scratch("b", (self.across * 2,), "uint32")
            for side, base, fragments, count in (
                (self.left, bases[0], a, self.down),
                (self.right, bases[1], b, self.across // 2),
            ):
                with code.unrolled("i", count) as i:
                    place = stage * side.size + base + side.place(i * 16, kk * step)
                    name = "optc_turned_matrices" if side.layout.turned else "optc_matrices"
                    self._on(name, _at(fragments, i * 4), _at(side.shared, place))
            with code.unrolled("i", self.down) as i, code.unrolled("j", self.across) as j:
                place = (i * self.across + j) * 4
                self._on(self.plan.product, _at(sums, place), _at(a, i * 4), _at(b, j * 2))

    def _on(self, name: str, *places: Expr) -> None:
        self.code.add(tirx.Evaluate(tirx.call_extern("void", name, *places)))

    def drain(self, sums: Buffer) -> None:
        """Write the warp's sums, with what is fused behind them: PTX ISA 9.7.14.5.8."""
        code, tile = self.code, self.tile
        group = code.bind(tirx.floordiv(self.lane, 4), "group")
        pair = code.bind(tirx.floormod(self.lane, 4) * 2, "pair")
        with code.unrolled("i", self.down) as i, code.unrolled("high", 2) as high:
            row = self.row + self.warp_row + i * 16 + high * 8 + group
            with guarded(code, row, self.m, self.row_tiles * tile.m) as row:
                known = self.at.spread(self.contraction.left.axes, row)
                with code.unrolled("j", self.across) as j, code.unrolled("e", 2) as e:
                    column = self.column + self.warp_column + j * 8 + pair + e
                    with guarded(code, column, self.n, self.column_tiles * tile.n) as column:
                        other = self.at.spread(self.contraction.right.axes, column)
                        place = (i * self.across + j) * 4 + high * 2 + e
                        self.write(self.at.point(known | other), sums[place])

    def write(self, point: list[Expr], value: Expr) -> None:
        """A sum to where it belongs."""
        value = self.code.bind(value, "sum")
        if self.parts is None:
            self.step.finish(self.code, point, [value])
        else:
            self.code.store(self.parts, (self.part, *point), value)


def _at(buffer: Buffer, place: Expr) -> Expr:
    return tirx.address_of(tirx.BufferLoad(buffer, [place]))
