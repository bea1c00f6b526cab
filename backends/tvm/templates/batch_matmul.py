"""Products of two activations: batches of matrices, or a right side that is no constant.

Work items are (batch, panel of columns). The right side's panel is copied once per item into
scratch memory, transposed where that is how it is stored, then all rows run over it with register
tiles. A right side whose rows are contiguous is read where it lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.fused import Fused, FusedEmitter, fused
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.templates.nest import space_of, unravel
from optc.backends.tvm.templates.places import Coordinate, plain, shifted
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.product import Operand, Product, left_operand
from optc.backends.tvm.templates.tile import (
    Tile,
    accumulate,
    broadcasts_lanes,
    drain,
    register_rows,
    tile_cycles,
)
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
        """Takes a task around one `matmul` or `linear` of floats."""
        anchors = [n for n in problem.body.nodes if isinstance(n.op, Linear | MatMul)]
        if len(anchors) != 1:
            return Miss("the task has no single matrix product")
        (anchor,) = anchors
        if not anchor.output.type.dtype.is_float or not anchor.output.type.elements:
            return Miss(f"products of {anchor.output.type} go elsewhere")
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

    def candidates(self) -> Sequence[Knobs]:
        """Tile shapes, the fewest estimated cycles first."""
        target, product = self.task.problem.target, self.product
        lanes = target.lanes(product.dtype)
        batches = math.prod(product.batch)
        found = []
        for vectors in range(1, min(_MOST_VECTORS, -(-product.n // lanes)) + 1):
            rows = min(product.m, register_rows(target, vectors))
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
        tile = tile_cycles(product.m / tiles, vectors / panels, product.k)
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
        self.by_lanes = broadcasts_lanes(self.target)
        self.unroll = self.lanes if self.by_lanes else _UNROLL
        self.width = knobs.vectors * self.lanes
        self.io: FusedEmitter = plan.task.emitter()
        self.by_column = self.product.is_stored_by_column(self.io)
        self.code = Code()

    def run(self, symbol: str) -> Emitted:
        code, product, knobs = self.code, self.product, self.knobs
        left = left_operand(code, self.io, product, self.target)
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

    def panel(
        self, left: Operand, at: Sequence[Expr], panel: Expr, part: Expr, columns: int
    ) -> None:
        """All tiles of one panel in one part of the rows."""
        code, product, parts = self.code, self.product, self.knobs.parts
        first = panel * self.width
        right, padded = self.right(at, first, columns)
        tiles = -(-product.m // self.knobs.rows)
        short, tall = divmod(product.m, tiles)
        begin = tirx.floordiv(part * tiles, parts)
        end = tirx.floordiv((part + 1) * tiles, parts)
        with code.loop("strip", end - begin if parts > 1 else tiles) as step:
            strip = code.bind(begin + step if parts > 1 else step, "strip")
            row = code.bind(strip * short + tirx.min(strip, tall), "row")
            for rows, here in code.cases(strip < tall, (tall, short + 1), (tiles - tall, short)):
                with here:
                    self.tile(left, right, padded, at, row, first, Tile(rows, columns, self.lanes))

    def tile(
        self,
        left: Operand,
        right: Callable[[Expr, Expr], Expr],
        padded: bool,
        at: Sequence[Expr],
        row: Expr,
        first: Expr,
        tile: Tile,
    ) -> None:
        code, product = self.code, self.product
        dtype = tvm_dtype(product.dtype)
        sums = accumulate(
            code, tile, product.k, self.unroll, lambda r, k: left(at, row + r, k), right, dtype,
            padded, self.by_lanes,
        )  # fmt: skip

        def finish(r: Expr, column: Coordinate, value: Expr) -> None:
            place = shifted(column, first)
            for bias in product.node.inputs[2:]:
                value = value + product.wide(self.io.read(None, bias, plain([place])))
            self.io.store(code, product.place(at, row + r, place), value)

        drain(code, tile, sums, finish, self.plan.task.epilogue_size, self.by_column)

    def right(
        self, at: Sequence[Expr], first: Expr, columns: int
    ) -> tuple[Callable[[Expr, Expr], Expr], bool]:
        """Elements (k, column) of a panel, and whether columns beyond the last may be read."""
        code, product, value = self.code, self.product, self.product.node.inputs[1]

        def element(block: Code | None, index: Sequence[Expr]) -> Expr:
            k, column = index
            place = product.right_index(at, k, first + column)
            return product.wide(self.io.read(block, value, place))

        space = space_of([product.k, columns], element)
        contiguous = all(strides[-1] == 1 for strides in space.strides)
        plain = space.operations == 0 and value.type.dtype is product.dtype
        if not product.transposed and plain and contiguous and space.strides:
            return lambda k, column: element(None, [k, column]), False
        width = Tile(1, columns, self.lanes).width
        dtype = tvm_dtype(product.dtype)
        large = product.k * width * product.dtype.bits // 8 > _STACK_PANEL
        panel = code.scratch("panel", (product.k, width), dtype, "global" if large else "local")
        self.copy(panel, element, columns, width)
        return lambda k, column: panel[k, column], True

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
            code.store(panel, (k, column), element(code, [k, column]))
        if columns < width:
            with code.loop("k", k_extent) as k, code.loop("column", width - columns) as column:
                code.store(panel, (k, columns + column), zero)
