"""Products of two activations: batches of matrices, or a right side that is no constant.

Work items are (batch, panel of columns). The right side's panel is copied once per item into
scratch memory, transposed where that is how it is stored, then all rows run over it with register
tiles. A right side whose rows are contiguous is read where it lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.dot import Dot, bits_of_half
from optc.backends.tvm.templates.fused import Fused, FusedEmitter, fused
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import space_of, unravel
from optc.backends.tvm.templates.places import Coordinate, plain, shifted
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.product import Left, Product, left_operand, multiplies
from optc.backends.tvm.templates.tile import (
    Tile,
    accumulate,
    broadcasts_lanes,
    drain,
    register_rows,
    tile_cycles,
)
from optc.ir.dtype import DType
from optc.ir.ops import Linear, MatMul

_MOST_VECTORS = 4
_UNROLL = 2
_STACK_PANEL = 16 * 1024  # bytes of a panel that lies on the stack


@dataclass(frozen=True, slots=True)
class BatchMatMulKnobs:
    """`rows` x `vectors` registers per tile; rows are dealt to threads in `parts`."""

    rows: int
    vectors: int
    parts: int


@dataclass(frozen=True)
class BatchMatMul:
    """Template of products of activations."""

    name: str = "batch_matmul"
    version: int = 1

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes a task around one `matmul` or `linear` of floats or bytes."""
        anchors = [n for n in problem.body.nodes if isinstance(n.op, Linear | MatMul)]
        if len(anchors) != 1:
            return Miss("the task has no single matrix product")
        (anchor,) = anchors
        if not multiplies(anchor):
            return Miss(f"products of {anchor.inputs[0].type} go elsewhere")
        if anchor.inputs[0].shape[-1] == 0:
            return Miss("sums of nothing go elsewhere")
        task = fused(problem, anchor)
        return task if isinstance(task, Miss) else BatchMatMulPlan(task)


@dataclass(frozen=True)
class BatchMatMulPlan:
    """Batches of M x K by K x N."""

    task: Fused
    template: str = "batch_matmul/1"

    @property
    def product(self) -> Product:
        """The product."""
        return Product(self.task.anchor)

    @cached_property
    def dot(self) -> Dot:
        """How the target multiplies and adds."""
        return self.product.dot(self.task.problem.target)

    def candidates(self) -> Sequence[Knobs]:
        """Tile shapes, the fewest estimated cycles first."""
        target, product = self.task.problem.target, self.product
        lanes = target.lanes(product.dtype)
        batches = math.prod(product.batch)
        found = []
        for vectors in range(1, min(_MOST_VECTORS, -(-product.n // lanes)) + 1):
            rows = min(product.m, register_rows(target, vectors, self.dot))
            rows = -(-product.m // -(-product.m // rows))
            panels = -(-product.n // (vectors * lanes))
            parts = 1
            while parts * 2 * rows <= product.m and batches * panels * parts < 4 * target.cores:
                parts *= 2
            found.append(BatchMatMulKnobs(rows, vectors, parts))
        return sorted(found, key=self.cycles)

    def cycles(self, knobs: BatchMatMulKnobs) -> float:
        """Estimated cycles of the slowest thread."""
        target, product = self.task.problem.target, self.product
        lanes = target.lanes(product.dtype)
        tiles, vectors = -(-product.m // knobs.rows), -(-product.n // lanes)
        panels = -(-vectors // knobs.vectors)
        items = math.prod(product.batch) * panels * knobs.parts
        steps = self.dot.words(product.k)
        tile = tile_cycles(product.m / tiles, vectors / panels, steps, self.dot.cost)
        copy = product.k * vectors / panels * (lanes if product.transposed else 1)
        return -(-items // target.cores) * (tile * tiles / knobs.parts + copy)

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over batches, panels and parts of rows."""
        if not isinstance(knobs, BatchMatMulKnobs):
            raise TypeError(f"batch_matmul does not know {knobs!r}")
        return _Emission(self, knobs).run(symbol)


class _Emission:
    def __init__(self, plan: BatchMatMulPlan, knobs: BatchMatMulKnobs) -> None:
        self.plan, self.knobs, self.product = plan, knobs, plan.product
        self.target = plan.task.problem.target
        self.lanes = self.target.lanes(self.product.dtype)
        self.dot, self.steps = plan.dot, plan.dot.words(self.product.k)
        self.by_lanes = broadcasts_lanes(self.target)
        self.unroll = self.lanes if self.by_lanes else _UNROLL
        self.width = knobs.vectors * self.lanes
        self.io: FusedEmitter = plan.task.emitter()
        self.by_column = self.product.is_stored_by_column(self.io)
        self.code = Code()

    def run(self, symbol: str) -> Emitted:
        code, product, knobs = self.code, self.product, self.knobs
        left = left_operand(code, self.io, product, self.target, self.dot)
        full, rest = divmod(product.n, self.width)
        panels = full + (rest > 0)
        items = math.prod(product.batch) * panels * knobs.parts
        with code.shared("item", items, self.plan.cycles(knobs)) as item:
            *at, panel, part = unravel(code, item, [*product.batch, panels, knobs.parts])
            for columns, here in code.cases(
                panel < full, (full, self.width), (panels - full, rest)
            ):
                with here:
                    self.panel(left, at, panel, part, columns)
        return self.io.finish(code, symbol)

    def panel(self, left: Left, at: Sequence[Expr], panel: Expr, part: Expr, columns: int) -> None:
        """All tiles of one panel in one part of the rows."""
        code, product, parts = self.code, self.product, self.knobs.parts
        first = panel * self.width
        right = self.right(at, first, columns)
        tiles = -(-product.m // self.knobs.rows)
        short, tall = divmod(product.m, tiles)
        begin = tirx.floordiv(part * tiles, parts)
        end = tirx.floordiv((part + 1) * tiles, parts)
        with code.loop("strip", end - begin if parts > 1 else tiles) as step:
            strip = code.bind(begin + step if parts > 1 else step, "strip")
            row = code.bind(strip * short + tirx.min(strip, tall), "row")
            for rows, here in code.cases(strip < tall, (tall, short + 1), (tiles - tall, short)):
                with here:
                    self.tile(left, right, at, row, first, Tile(rows, columns, self.lanes))

    def tile(
        self, left: Left, right: _Right, at: Sequence[Expr], row: Expr, first: Expr, tile: Tile
    ) -> None:
        code, product = self.code, self.product

        def load(buffer: Buffer, r: int, k: Expr) -> None:
            left.load(buffer, at, row + r, k)

        sums = accumulate(
            code, tile, self.steps, self.unroll, lambda r, k: left.word(at, row + r, k), right.word,
            self.dot, right.padded, load if self.by_lanes else None, start=right.start,
        )  # fmt: skip

        def finish(r: Expr, column: Coordinate, value: Expr) -> None:
            place = shifted(column, first)
            for bias in product.node.inputs[2:]:
                value = value + product.wide(self.io.read(None, bias, plain([place])))
            self.io.store(code, product.place(at, row + r, place), value)

        drain(code, tile, sums, finish, self.plan.task.epilogue_size, self.by_column)

    def right(self, at: Sequence[Expr], first: Expr, columns: int) -> _Right:
        """The words of a panel."""
        code, product, value = self.code, self.product, self.product.node.inputs[1]

        def element(block: Code | None, index: Sequence[Expr]) -> Expr:
            k, column = index
            return self.io.read(block, value, product.right_index(at, k, first + column))

        width = Tile(1, columns, self.lanes).width
        if self.dot.group > 1:
            tile = Tile(1, columns, self.lanes)
            return _WordPanel(code, self.dot, element, product.k, tile, product.transposed).right()
        space = space_of([product.k, columns], element)
        contiguous = all(strides[-1] == 1 for strides in space.strides)
        plain = space.operations == 0 and value.type.dtype is self.dot.right
        if not product.transposed and plain and contiguous and space.strides:
            return _Right(lambda k, column: element(None, [k, column]), padded=False)
        dtype = tvm_dtype(product.dtype)
        large = product.k * width * product.dtype.bits // 8 > _STACK_PANEL
        panel = code.scratch("panel", (product.k, width), dtype, "global" if large else "local")
        self.copy(panel, element, columns, width)
        return _Right(lambda k, column: panel[k, column])

    def copy(
        self,
        panel: tirx.Buffer,
        element: Callable[[Code | None, Sequence[Expr]], Expr],
        columns: int,
        width: int,
    ) -> None:
        """Fill the panel, and its columns beyond the last with zeros."""
        code, k_extent = self.code, self.product.k
        zero = tirx.const(0, tvm_dtype(self.product.dtype))
        with code.loop("column", columns) as column, code.loop("k", k_extent) as k:
            code.store(panel, (k, column), self.product.wide(element(code, [k, column])))
        if columns < width:
            with code.loop("k", k_extent) as k, code.loop("column", width - columns) as column:
                code.store(panel, (k, columns + column), zero)


@dataclass(frozen=True)
class _Right:
    """A panel: its words by (k, column), what a column's sums start at, whether it is padded."""

    word: Callable[[Expr, Expr], Expr]
    padded: bool = True
    start: Callable[[Expr], Expr] | None = None


@dataclass(frozen=True)
class _WordPanel:
    """Copies a panel of a right side into words, columns beyond the last being zero."""

    code: Code
    dot: Dot
    element: Callable[[Code | None, Sequence[Expr]], Expr]
    k: int
    tile: Tile  # of one row
    by_column: bool  # neighbours along K are neighbours in memory

    def right(self) -> _Right:
        """Emit the copy."""
        words, width = self.dot.words(self.k), self.tile.width
        scope = "global" if words * width * 4 > _STACK_PANEL else "local"
        panel = self.code.scratch("panel", (words, width), "int32", scope)
        whole, rest = divmod(self.k, self.dot.group)
        if self.by_column:
            with self.code.loop("column", self.tile.columns) as column:
                with self.code.loop("k", whole) as k:
                    self.code.store(panel, (k, column), self._word(k, column, self.dot.group))
                if rest:
                    last = self._word(as_index(whole), column, rest)
                    self.code.store(panel, (whole, column), last)
            if self.tile.columns < width:
                with self.code.loop("k", words) as k:
                    self._clear(panel, k)
        else:
            with self.code.loop("k", whole) as k:
                self._row(panel, k, self.dot.group)
            if rest:
                self._row(panel, as_index(whole), rest)
        start = self._start(panel, words) if self.dot.origin else None
        return _Right(lambda k, column: panel[k, column], start=start)

    def _row(self, panel: Buffer, k: Expr, count: int) -> None:
        for at, lanes in self.tile.pieces():
            with self.code.vector("lane", lanes) as lane:
                self.code.store(panel, (k, at + lane), self._word(k, at + lane, count))
        self._clear(panel, k)

    def _clear(self, panel: Buffer, k: Expr) -> None:
        with self.code.unrolled("rest", self.tile.width - self.tile.columns) as rest:
            self.code.store(panel, (k, self.tile.columns + rest), tirx.const(0, "int32"))

    def _word(self, k: Expr, column: Expr, count: int) -> Expr:
        bits, kind = 32 // self.dot.group, tvm_dtype(self.dot.panel)
        total: Expr = tirx.const(0, "int32")
        for i in range(count):
            value = self.element(None, [k * self.dot.group + i, column])
            if self.dot.panel is DType.BF16:
                value = bits_of_half(value)
            elif str(value.ty) != kind:
                value = tirx.Cast(kind, value)
            part = tirx.Cast("int32", tirx.reinterpret(f"uint{bits}", value))
            shifted = tirx.shift_left(part, tirx.const(i * bits, "int32")) if i else part
            total = tirx.bitwise_or(total, shifted) if i else shifted
        return total

    def _start(self, panel: Buffer, words: int) -> Callable[[Expr], Expr]:
        """What sums start at: less what flipped signs of the left side add."""
        code, lanes = self.code, self.tile.lanes
        start = code.scratch("origin", (self.tile.width,), "int32")
        signs, zero = tirx.const(-0x7F7F7F80, "int32"), tirx.const(0, "int32")
        for first in range(0, self.tile.width, lanes):
            sums = code.scratch("sums", (lanes,), "int32")
            with code.vector("lane", lanes) as lane:
                code.store(sums, (lane,), zero)
            with code.loop("k", words) as k, code.vector("lane", lanes) as lane:
                total = self.dot.add(sums[lane], signs, panel[k, first + lane])
                code.store(sums, (lane,), total)
            with code.vector("lane", lanes) as lane:
                code.store(start, (first + lane,), zero - sums[lane])
        return lambda column: start[column]
