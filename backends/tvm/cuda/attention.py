"""Attention in one launch: scores live in registers, and no matrix of them is ever stored.

A block takes some queries of a head and meets keys and values tile by tile through shared memory;
maxima and sums are corrected as it goes (Dao et al. 2022, algorithm 1; Dao 2023, section 3.1: the
loop over keys inside, one correction at the end). Halves are multiplied on tensor cores, f32 by
threads: `attention_products` has both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.cuda.attention_products import (
    FragmentProducts,
    Products,
    ThreadProducts,
    Tiles,
)
from optc.backends.tvm.cuda.grid import Grid, ceil_div
from optc.backends.tvm.cuda.staging import Slices, call
from optc.backends.tvm.cuda.task import Task
from optc.backends.tvm.cuda.tensor_cores import layout_of
from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.lower.element import pinned
from optc.backends.tvm.templates.accesses import axes_of
from optc.backends.tvm.templates.fused import Fused, FusedEmitter, fused
from optc.backends.tvm.templates.loops import as_index
from optc.backends.tvm.templates.nest import unravel
from optc.backends.tvm.templates.plan import Miss, Problem
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Attention
from optc.ir.targets.target import Target

_LOG2_E = 1.4426950408889634
_LEAST = 8  # queries or keys below which tiles stay empty
_MOST_DEPTH = 128  # columns of queries and values whose tiles and sums fit a block
_SHARED = 48 * 1024
_F32 = "float32"
# Rows and keys of a block, and stages of keys and values.
_HALVES = (
    (64, 64, 2), (64, 32, 2), (64, 16, 2), (64, 32, 1), (32, 64, 2), (32, 32, 2), (32, 16, 2),
    (16, 32, 2), (16, 16, 2), (16, 16, 1),
)  # fmt: skip
_SINGLES = ((32, 32, 2), (32, 32, 1), (32, 16, 1), (16, 32, 2), (16, 16, 1))
# Multiply-adds per cycle and multiprocessor that such kernels reach; cycles until a tile is there.
_RATES = {True: 400, False: 64}
_WAIT, _STEP = 700, 300
_FROM_L2 = 40  # bytes per cycle and multiprocessor


def emit_attention(task: Task, body: Graph, target: Target) -> Miss | None:
    """Add the launch of a task around one attention, or say why it is computed in steps."""
    anchors = [node for node in body.nodes if isinstance(node.op, Attention)]
    if len(anchors) != 1:
        return Miss("the task has no single attention")
    (anchor,) = anchors
    tiles = tiles_of(anchor, target)
    if isinstance(tiles, Miss):
        return tiles
    around = fused(Problem(body, frozenset(), target), anchor)
    if isinstance(around, Miss):
        return around
    _Emission(task, around, tiles).run()
    return None


def tiles_of(anchor: Node, target: Target) -> Tiles | Miss:
    """How a block cuts the attention, or why it does not."""
    q, k, v = (value.type for value in anchor.inputs[:3])
    if q.dtype not in (DType.F32, DType.F16, DType.BF16):
        return Miss(f"attention in {q.dtype} is computed in steps")
    rows, keys, depth, width = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    if min(rows, keys) < _LEAST or not min(q.elements, v.elements):
        return Miss(f"{rows} queries and {keys} keys fill no tile")
    if max(depth, width) > _MOST_DEPTH:
        return Miss(f"heads of {depth} and {width} columns do not fit a block")
    architecture = int(target.cpu.removeprefix("sm_"))
    fragments = q.dtype is DType.F16 or (q.dtype is DType.BF16 and architecture >= 80)
    if not fragments and q.dtype is not DType.F32:
        return Miss("tensor cores take bf16 from compute capability 8.0 on")
    options = [
        Tiles(*option, depth, width, q.dtype.nbytes(1), fragments)
        for option in (_HALVES if fragments else _SINGLES)
    ]
    fitting = [tiles for tiles in options if tiles.shared_bytes <= _SHARED]
    heads = math.prod(q.shape[:-2])
    return min(fitting, key=lambda tiles: _cycles(tiles, heads, rows, keys, target))


def _cycles(tiles: Tiles, heads: int, rows: int, keys: int, target: Target) -> float:
    """Of all blocks of a multiprocessor: work on tiles, or waiting for them if that is longer."""
    turns = ceil_div(heads * ceil_div(rows, tiles.rows), target.cores)
    resident = min(turns, target.cache("shared", 64 * 1024) // tiles.shared_bytes)
    columns = tiles.keys * (tiles.depth + tiles.width)
    work = tiles.rows * columns / _RATES[tiles.fragments] + columns * tiles.bytes / _FROM_L2
    waiting = ceil_div(turns, max(1, resident)) * (_WAIT / tiles.stages + _STEP)
    return ceil_div(keys, tiles.keys) * max(turns * work, waiting)


@dataclass(frozen=True)
class _Operands:
    """The attention's inputs, by what they are."""

    q: Value
    k: Value
    v: Value
    mask: Value | None


class _Emission:
    def __init__(self, task: Task, around: Fused, tiles: Tiles) -> None:
        self.task, self.tiles = task, tiles
        node = around.anchor
        assert isinstance(node.op, Attention)
        self.op = node.op
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        q, k, v = node.inputs[:3]
        self.operands = _Operands(q, k, v, mask)
        self.io: FusedEmitter = around.emitter()
        task.inputs, task.outputs = self.io.inputs, self.io.outputs
        self.rows, self.keys = q.shape[-2], k.shape[-2]
        self.group = q.shape[-3] // k.shape[-3]
        blocks = ceil_div(self.rows, tiles.rows)
        lead = list(q.shape[:-2])
        self.grid = Grid(math.prod(lead) * blocks, tiles.threads)
        self.code = code = self.grid.code
        self.head = unravel(code, tirx.floordiv(self.grid.block, blocks), lead)
        # Later blocks of a causal head do more: they start first.
        place = tirx.floormod(self.grid.block, blocks)
        place = (blocks - 1) - place if self.op.causal else place
        self.row = code.bind(place * tiles.rows, "row")
        self.q = self._slices(q, self.head, tiles.rows, tiles.depth_padded, 1)
        below = [*self.head[:-1], self._key_head(self.head[-1])]
        self.k = self._slices(k, below, tiles.keys, tiles.depth_padded, tiles.stages)
        self.v = self._slices(v, below, tiles.keys, tiles.width_padded, tiles.stages)
        kind = FragmentProducts if tiles.fragments else ThreadProducts
        self.products: Products = kind(self.grid, tiles, self.q, self.k, self.v)

    def _key_head(self, head: Expr) -> Expr:
        return head if self.group == 1 else tirx.floordiv(head, self.group)

    def _slices(
        self, value: Value, head: Sequence[Expr], rows: int, columns: int, stages: int
    ) -> Slices:
        dtype = tvm_dtype(value.type.dtype)
        axes = axes_of(value.shape, "p")
        element = self.io.read(None, value, [axis.var for axis in axes])
        layout = layout_of(element, dtype, axes[-2:-1], axes[-1:], axes, turns=False)

        def read(at: Expr, k: Expr) -> Expr:
            return self.io.read(None, value, [*head, at, k])

        extents = (value.shape[-2], value.shape[-1])
        return Slices(self.grid, read, dtype, layout, (rows, columns), extents, stages)

    def run(self) -> None:
        """Queries, then tile after tile of keys and values; at the end the results."""
        code, tiles, products = self.code, self.tiles, self.products
        products.prepare()
        for slices in (self.q, self.k, self.v):
            slices.prepare()
        peaks = self._registers("peaks", products.rows, float("-inf"))
        totals = self._registers("totals", products.rows, 0.0)
        mixed = self._registers("mixed", products.rows * products.columns, 0.0)
        zero = as_index(0)
        self._fill(self.q, self.row, zero)
        count = self._count()
        if tiles.stages == 2:
            self._fetch(zero)
        call(code, "optc_commit")
        with code.loop("tile", count) as tile:
            if tiles.stages == 2:
                with code.when(tile + 1 < count):
                    self._fetch(tile + 1)
            else:
                self._fetch(tile)
            call(code, "optc_commit")
            call(code, f"optc_wait<{tiles.stages - 1}>")
            self.grid.sync()
            stage = tirx.floormod(tile, tiles.stages)
            scores = code.scratch("scores", (products.rows * products.keys,), _F32)
            with code.unrolled("i", products.rows * products.keys) as i:
                code.store(scores, (i,), tirx.const(0.0, _F32))
            products.score(stage, scores)
            self.weigh(tile * tiles.keys, scores, peaks, totals, mixed)
            products.mix(stage, scores, mixed)
            self.grid.sync()
        self.finish(totals, mixed)
        self.task.add(self.grid)

    def _registers(self, name: str, count: int, value: float) -> Buffer:
        buffer = self.code.scratch(name, (count,), _F32)
        with self.code.unrolled("i", count) as i:
            self.code.store(buffer, (i,), tirx.const(value, _F32))
        return buffer

    def _count(self) -> Expr | int:
        """Tiles of keys that a row of the block sees."""
        tiles = ceil_div(self.keys, self.tiles.keys)
        if not self.op.causal:
            return tiles
        last = tirx.floordiv(self.row + (self.tiles.rows - 1), self.tiles.keys) + 1
        return self.code.bind(tirx.min(as_index(tiles), last), "count")

    def _fetch(self, tile: Expr) -> None:
        stage = tirx.floormod(tile, self.tiles.stages)
        for slices in (self.k, self.v):
            self._fill(slices, tile * self.tiles.keys, stage)

    def _fill(self, slices: Slices, start: Expr, stage: Expr) -> None:
        slices.fetch(start, as_index(0), stage)
        slices.put(stage)

    def weigh(
        self, first: Expr, scores: Buffer, peaks: Buffer, totals: Buffer, mixed: Buffer
    ) -> None:
        """Scores to weights, all in powers of two; what was summed before follows the new peak."""
        code, products = self.code, self.products
        with code.unrolled("r", products.rows) as r:
            row = self.row + products.row(r)
            top = code.scratch("top", (1,), _F32)
            code.store(top, (0,), peaks[r])
            with code.unrolled("c", products.keys) as c:
                place = products.score_place(r, c)
                key = first + products.key(c)
                score = self.hidden(row, key, scores[place] * self._scale())
                code.store(scores, (place,), score)
                code.store(top, (0,), _larger(top[0], scores[place]))
            self._across(top, _larger)
            lowest = tirx.EQ(top[0], tirx.const(float("-inf"), _F32))
            origin = code.scratch("origin", (1,), _F32)
            code.store(origin, (0,), tirx.Select(lowest, tirx.const(0.0, _F32), top[0]))
            factor = code.scratch("factor", (1,), _F32)
            code.store(factor, (0,), _power(peaks[r] - origin[0]))
            code.store(peaks, (r,), top[0])
            code.store(totals, (r,), totals[r] * factor[0])
            with code.unrolled("c", products.keys) as c:
                place = products.score_place(r, c)
                code.store(scores, (place,), _power(scores[place] - origin[0]))
                code.store(totals, (r,), totals[r] + scores[place])
            with code.unrolled("d", products.columns) as d:
                place = products.mixed_place(r, d)
                code.store(mixed, (place,), mixed[place] * factor[0])

    def _scale(self) -> Expr:
        return tirx.const(self.op.scale * _LOG2_E, _F32)

    def hidden(self, row: Expr, key: Expr, score: Expr) -> Expr:
        """The score with its mask; minus infinity beyond the last key and the causal edge."""
        nothing = tirx.const(float("-inf"), _F32)
        mask = self.operands.mask
        if mask is not None:
            # Rows and keys beyond the last read the last one's.
            at = tirx.min(row, as_index(self.rows - 1)) if self.rows % self.tiles.rows else row
            to = tirx.min(key, as_index(self.keys - 1)) if self.keys % self.tiles.keys else key
            item = self.io.read(None, mask, pinned([*self.head, at, to], mask.shape))
            if mask.type.dtype is DType.BOOL:
                score = tirx.Select(item, score, nothing)
            else:
                wide = item if item.ty.dtype == _F32 else tirx.Cast(_F32, item)
                score = score + wide * tirx.const(_LOG2_E, _F32)
        if self.op.causal:
            score = tirx.Select(key > row, nothing, score)
        if self.keys % self.tiles.keys:
            score = tirx.Select(key < self.keys, score, nothing)
        return score

    def _across(self, value: Buffer, join) -> None:  # type: ignore[no-untyped-def]
        """Join a value of a row among the threads that share the row."""
        everyone = tirx.const(0xFFFFFFFF, "uint32")
        for distance in self.products.sharing:
            other = self.code.scratch("other", (1,), _F32)
            asked = tirx.call_extern(
                _F32, "__shfl_xor_sync", everyone, value[0], as_index(distance)
            )
            self.code.store(other, (0,), asked)
            self.code.store(value, (0,), join(value[0], other[0]))

    def finish(self, totals: Buffer, mixed: Buffer) -> None:
        """Results of rows that exist, divided by their sums; a row that saw nothing is 0."""
        code, products, width = self.code, self.products, self.tiles.width
        zero = tirx.const(0.0, _F32)
        with code.unrolled("r", products.rows) as r:
            total = code.scratch("total", (1,), _F32)
            code.store(total, (0,), totals[r])
            self._across(total, lambda a, b: a + b)
            row = code.bind(self.row + products.row(r), "result_row")
            with code.when(row < self.rows), code.unrolled("d", products.columns) as d:
                column = code.bind(products.column(d), "column")
                value = mixed[products.mixed_place(r, d)]
                result = tirx.Select(tirx.EQ(total[0], zero), zero, value / total[0])
                with code.when(column < width):
                    self.io.store(code, [*self.head, row, column], result)


def _larger(a: Expr, b: Expr) -> Expr:
    return tirx.call_pure_extern(_F32, "fmaxf", a, b)


def _power(value: Expr) -> Expr:
    return tirx.call_pure_extern(_F32, "exp2f", value)
