"""The launch of a product on tensor cores: slices through shared memory, fragments in registers.

While a slice is multiplied, later ones are on their way: cp.async into other stages of shared
memory (NVIDIA, CUTLASS: "Efficient GEMM in CUDA", software pipelining). Rows of a slice are padded,
so that the eight rows that ldmatrix reads at once lie in different banks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.cuda.contraction import Coordinates, Factor
from optc.backends.tvm.cuda.grid import WARP, Grid, ceil_div, point_of
from optc.backends.tvm.cuda.schemes import guarded
from optc.backends.tvm.cuda.staging import Slices, address, call
from optc.backends.tvm.cuda.tensor_cores import TensorPlan
from optc.backends.tvm.cuda.tensor_tiles import STEP
from optc.backends.tvm.dtypes import width_of
from optc.backends.tvm.templates.loops import as_index
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
        self.left = self._slices(contraction.left, 0, tile.m)
        self.right = self._slices(contraction.right, 1, tile.n)
        self.sides = ((self.left, self.row), (self.right, self.column))
        self.down, self.across = tile.rows // 16, tile.columns // 8

    def _slices(self, factor: Factor, place: int, width: int) -> Slices:
        dtype, tile = self.plan.dtypes[place], self.tile
        return Slices(
            self.grid,
            lambda at, k: self.at.element(factor, at, k),
            dtype,
            self.plan.layouts[place],
            (width, tile.depth // width_of(dtype)),
            (self.contraction.size(factor.axes), self.k),
            tile.stages,
        )

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
            side.prepare()
        bases = self._bases()
        with code.loop("stage", stages - 1) as stage:
            self._fetch(stage, count, first, stage)
            self._put(stage, count, stage)
            call(code, "optc_commit")
        with code.loop("slice", count) as slice:
            ahead = slice + (stages - 1)
            stage = code.bind(tirx.floormod(ahead, stages), "stage")
            call(code, f"optc_wait<{stages - 2}>")
            self.grid.sync()
            self._fetch(ahead, count, first, stage)
            call(code, "optc_commit")
            self.multiply(bases, tirx.floormod(slice, stages), sums)
            self._put(ahead, count, stage)
        self.drain(sums)
        self.step.task.add(self.grid)

    def _fetch(self, slice: Expr, count: Expr | int, first: Expr, stage: Expr) -> None:
        with self.code.when(slice < count):
            depth = self.code.bind((first + slice) * self.left.depth, "depth")
            for side, start in self.sides:
                side.fetch(start, depth, stage)

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
                    call(code, name, address(fragments, i * 4), address(side.shared, place))
            with code.unrolled("i", self.down) as i, code.unrolled("j", self.across) as j:
                place = (i * self.across + j) * 4
                call(
                    code,
                    self.plan.product,
                    address(sums, place),
                    address(a, i * 4),
                    address(b, j * 2),
                )

    def drain(self, sums: Buffer) -> None:
        """Write the warp's sums, with what is fused behind them: PTX ISA 9.7.14.5.8."""
        code, tile = self.code, self.tile
        group = code.bind(tirx.floordiv(self.lane, 4), "group")
        pair = code.bind(tirx.floormod(self.lane, 4) * 2, "pair")
        paired = self._pairs_are_neighbours()
        aligned = [self._aligned(goal) for goal in self._goals()] if paired else []
        with code.unrolled("i", self.down) as i, code.unrolled("high", 2) as high:
            row = self.row + self.warp_row + i * 16 + high * 8 + group
            with (
                guarded(code, row, self.m, self.row_tiles * tile.m) as row,
                code.unrolled("j", self.across) as j,
            ):
                known = self.at.spread(self.contraction.left.axes, row)
                column = self.column + self.warp_column + j * 8 + pair
                place = (i * self.across + j) * 4 + high * 2
                if paired:
                    with self._column(column) as at:
                        self._write_pair(known, at, (sums[place], sums[place + 1]), aligned)
                else:
                    with code.unrolled("e", 2) as e, self._column(column + e) as at:
                        for goal, index, value in self._finished(known, at, sums[place + e]):
                            code.store(goal, index, value)

    def _pairs_are_neighbours(self) -> bool:
        """Whether a lane's two columns, the first of them even, lie side by side in the results."""
        extents, axes = self.step.extents, self.contraction.right.axes
        if any(goal.dtype == "bool" for goal in self._goals()):
            return False  # TVM's printer gives bools no address
        return bool(axes) and axes[-1] == len(extents) - 1 and extents[-1] % 2 == 0

    def _column(self, column: Expr) -> AbstractContextManager[Expr]:
        return guarded(self.code, column, self.n, self.column_tiles * self.tile.n)

    def _goals(self) -> list[Buffer]:
        """Where sums end up: the stage's results, or parts of them."""
        if self.parts is not None:
            return [self.parts]
        stage, task = self.step.stage, self.step.task
        return [task.goal_of(stage.output(n)) for n in range(stage.num_outputs)]

    def _finished(
        self, known: Mapping[int, Expr], column: Expr, value: Expr
    ) -> list[tuple[Buffer, list[Expr], Expr]]:
        """What becomes of a sum: buffers, indices and values, with all that is fused behind it."""
        point = self.at.point({**known, **self.at.spread(self.contraction.right.axes, column)})
        value = self.code.bind(value, "sum")
        if self.parts is not None:
            return [(self.parts, [self.part, *point], value)]
        found: list[tuple[Buffer, list[Expr], Expr]] = []

        def keep(number: int, index: Sequence[Expr], result: Expr) -> None:
            found.append((self._goals()[number], list(index), self.code.bind(result, "result")))

        self.step.finish(self.code, point, [value], keep)
        return found

    def _aligned(self, goal: Buffer) -> Expr:
        """Whether pairs of a result can be written at once."""
        zero = as_index(0)
        base = tirx.address_of(tirx.BufferLoad(goal, [zero] * len(goal.shape)))
        home = self.code.scratch("pairs", (1,), "int32")
        nbytes = as_index(2 * width_of(goal.dtype))
        self.code.store(home, (0,), tirx.call_extern("int32", "optc_aligned", base, nbytes))
        return tirx.NE(home[0], zero)

    def _write_pair(
        self,
        known: Mapping[int, Expr],
        column: Expr,
        values: tuple[Expr, Expr],
        aligned: Sequence[Expr],
    ) -> None:
        """Two neighbours, at once where the result's address allows it."""
        code = self.code
        first = self._finished(known, column, values[0])
        second = self._finished(known, column + 1, values[1])
        for whole, (goal, index, x), (_, beside, y) in zip(aligned, first, second, strict=True):
            with code.when(whole):
                place = tirx.address_of(tirx.BufferLoad(goal, index))
                call(code, "optc_store_pair", place, x, y)
            with code.otherwise(whole):
                code.store(goal, index, x)
                code.store(goal, beside, y)
