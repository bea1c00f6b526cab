"""Products with small integers for weights: `dequantize` in front of a `linear` of floats.

The weights stay as they are in memory, a byte or half a byte each, and become floats in registers:
a product with few rows takes as long as its weights take to arrive. They lie in panels like gemm's,
four-bit ones eight of a column to a word, of which AVX-512 looks one up in a table of the sixteen
numbers. Sums of a block are scaled once at its end (as in Frantar et al. 2022, GPTQ's kernels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.dot import elementwise
from optc.backends.tvm.templates.fused import Fused, fused
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.templates.places import Coordinate, plain, shifted
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Pack, Plan, Problem
from optc.backends.tvm.templates.product import Left, Product, left_operand
from optc.backends.tvm.templates.tile import (
    Tile,
    accumulate,
    broadcasts_lanes,
    drain,
    rows_without_conflict,
    tile_cycles,
)
from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.ops import Dequantize, Linear
from optc.ir.types import TensorType

_MOST_VECTORS = 8
_NIBBLES = 8  # in a word
_SMALL = (DType.I8, DType.U8, DType.I4)


@dataclass(frozen=True, slots=True)
class SmallPack:
    """[N, K] integers as panels [K][width]; of `nibbles`, [K / 8][width] words of eight."""

    width: int
    lanes: int
    nibbles: bool

    def type(self, natural: TensorType) -> TensorType:
        """One axis, N in whole vectors."""
        n, k = natural.shape
        size = -(-n // self.lanes) * self.lanes * k
        if self.nibbles:
            return TensorType((size // _NIBBLES,), DType.I32)
        return natural.with_shape((size,))

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The panels, flat."""
        n, k = array.shape
        padded = np.zeros((k, -(-n // self.lanes) * self.lanes), array.dtype)
        padded[:, :n] = array.T
        if self.nibbles:
            parts = (padded & 15).astype(np.uint32).reshape(k // _NIBBLES, _NIBBLES, -1)
            shifts = np.arange(0, 32, 4, dtype=np.uint32)[None, :, None]
            padded = np.bitwise_or.reduce(parts << shifts, axis=1).view(np.int32)
        panels = np.split(padded, range(self.width, padded.shape[1], self.width), axis=1)
        return np.concatenate([panel.ravel() for panel in panels])


@dataclass(frozen=True, slots=True)
class BlockPack:
    """A parameter of the weights, () or [N', G], as f32 panels [G][width], one for each column."""

    columns: int
    width: int
    lanes: int

    def type(self, natural: TensorType) -> TensorType:
        """One axis, columns in whole vectors."""
        blocks = natural.shape[1] if natural.rank else 1
        return TensorType((-(-self.columns // self.lanes) * self.lanes * blocks,), DType.F32)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The panels, flat."""
        table = np.atleast_2d(array.astype(np.float32))
        every = np.repeat(table, self.columns // len(table), axis=0).T
        padded = np.zeros((every.shape[0], -(-self.columns // self.lanes) * self.lanes), np.float32)
        padded[:, : self.columns] = every
        panels = np.split(padded, range(self.width, padded.shape[1], self.width), axis=1)
        return np.concatenate([panel.ravel() for panel in panels])


@dataclass(frozen=True, slots=True)
class WeightOnlyKnobs:
    """`rows` x `vectors` registers per tile at most; `unroll` elements of K per iteration."""

    rows: int
    vectors: int
    unroll: int


@dataclass(frozen=True)
class WeightOnly:
    """Template of linear layers whose weights are dequantized constants."""

    name: str = "weight_only"
    version: int = 1

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes a task around one `linear` with a `dequantize` of constants as its weight."""
        anchors = [n for n in problem.body.nodes if isinstance(n.op, Linear)]
        if len(anchors) != 1:
            return Miss("the task has no single linear layer")
        (anchor,) = anchors
        source = problem.body.producer.get(anchor.inputs[1])
        if source is None or not isinstance(source.op, Dequantize):
            return Miss("the weights are not dequantized here")
        constant = {problem.body.inputs[i] for i in problem.constants}
        own = all(value in constant for value in source.inputs)
        if not own or any(problem.body.users[v] != (source,) for v in source.inputs):
            return Miss("the weights are not constants of the layer's own")
        if len(problem.body.users[anchor.inputs[1]]) != 1:
            return Miss("the dequantized weights are wanted elsewhere too")
        if source.inputs[0].type.dtype not in _SMALL or not anchor.output.type.elements:
            return Miss(f"products with {source.inputs[0].type} go elsewhere")
        block = _block(source)
        if block is None or (source.inputs[0].type.dtype is DType.I4 and block % _NIBBLES):
            return Miss("blocks of weights that fill no words go elsewhere")
        task = fused(problem, anchor)
        return task if isinstance(task, Miss) else WeightOnlyPlan(task, source)


def _block(source: Node) -> int | None:
    """Weights along K that share all parameters."""
    length = source.inputs[0].shape[1]
    counts = [value.shape[1] if value.type.rank else 1 for value in source.inputs[1:]]
    most = max(counts)
    return length // most if all(count in (1, most) for count in counts) and length else None


@dataclass(frozen=True)
class WeightOnlyPlan:
    """M x K floats by K x N small integers."""

    task: Fused
    source: Node
    template: str = "weight_only/1"

    @property
    def product(self) -> Product:
        """The product."""
        return Product(self.task.anchor)

    @property
    def nibbles(self) -> bool:
        """Whether weights are half bytes."""
        return self.source.inputs[0].type.dtype is DType.I4

    @cached_property
    def block(self) -> int:
        """Weights along K that share all parameters."""
        found = _block(self.source)
        assert found is not None
        return found

    def candidates(self) -> Sequence[Knobs]:
        """Tile shapes, the fewest estimated cycles first."""
        target = self.task.problem.target
        lanes, m = target.lanes(DType.F32), self.product.m
        found = []
        for vectors in range(1, min(_MOST_VECTORS, -(-self.product.n // lanes)) + 1):
            most = max(1, (target.vector_registers - 2 * vectors - 3) // vectors)
            tiles = -(-m // most)
            found += [WeightOnlyKnobs(-(-m // tiles), vectors, unroll) for unroll in (8, 16)]
        return sorted(dict.fromkeys(found), key=self.cycles)

    def cycles(self, knobs: WeightOnlyKnobs) -> float:
        """Estimated cycles of the slowest thread."""
        target, product = self.task.problem.target, self.product
        tiles, vectors = -(-product.m // knobs.rows), -(-product.n // target.lanes(DType.F32))
        panels = -(-vectors // knobs.vectors)
        rows, width = product.m / tiles, vectors / panels
        blocks = product.k // self.block
        widening = 1.5 * width * self.block  # slots of what makes floats of a vector of weights
        one = tile_cycles(rows, width, self.block) + widening / 2 + rows * width
        if rows > rows_without_conflict(target, product.k * 4):
            one += rows * self.block
        share = -(-panels * tiles // target.cores) / (panels * tiles)
        return one * blocks * panels * tiles * share * (1 + knobs.unroll / 1000)

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over tiles."""
        if not isinstance(knobs, WeightOnlyKnobs):
            raise TypeError(f"weight_only does not know {knobs!r}")
        return _Emission(self, knobs).run(symbol)


class _Emission:
    def __init__(self, plan: WeightOnlyPlan, knobs: WeightOnlyKnobs) -> None:
        self.plan, self.knobs, self.product = plan, knobs, plan.product
        self.target = plan.task.problem.target
        self.lanes = self.target.lanes(DType.F32)
        self.width, self.code = knobs.vectors * self.lanes, Code()
        inputs = plan.task.problem.body.inputs
        packs: dict[int, Pack] = {
            inputs.index(plan.source.inputs[0]): SmallPack(self.width, self.lanes, plan.nibbles)
        }
        for value in plan.source.inputs[1:]:
            packs[inputs.index(value)] = BlockPack(self.product.n, self.width, self.lanes)
        self.io = plan.task.emitter(packs)
        self.weights, self.scale, self.zero = map(self.io.packed, plan.source.inputs)

    def run(self, symbol: str) -> Emitted:
        code, product = self.code, self.product
        dot = elementwise(DType.F32, DType.F32)
        left = left_operand(code, self.io, product, self.target, dot)
        tiles = -(-product.m // self.knobs.rows)
        short, tall = divmod(product.m, tiles)
        full, rest = divmod(product.n, self.width)
        panels = full + (rest > 0)
        with code.shared("item", panels * tiles, self.plan.cycles(self.knobs)) as item:
            panel = code.bind(tirx.floordiv(item, tiles), "panel")
            strip = code.bind(tirx.floormod(item, tiles), "strip")
            row = code.bind(strip * short + tirx.min(strip, tall), "row")
            heights = (tall, short + 1), (tiles - tall, short)
            widths = (full, self.width), (panels - full, rest)
            for rows, chosen in code.cases(strip < tall, *heights):
                with chosen:
                    for columns, here in code.cases(panel < full, *widths):
                        with here:
                            self.tile(left, Tile(rows, columns, self.lanes), panel, row)
        return self.io.finish(code, symbol)

    def tile(self, left: Left, tile: Tile, panel: Expr, row: Expr) -> None:
        """The sums of all blocks, then what follows."""
        code, product, block = self.code, self.product, self.plan.block
        totals = code.scratch("totals", (tile.rows, tile.width), "float32")
        each = [(r, v * self.lanes) for r in range(tile.rows) for v in range(tile.vectors)]
        for r, first in each:
            with code.vector("lane", self.lanes) as lane:
                code.store(totals, (r, first + lane), tirx.const(0.0, "float32"))
        table = self._table()
        with code.loop("block", product.k // block) as number:
            sums = self._sums(left, tile, panel, row, number, table)
            for r, first in each:
                with code.vector("lane", self.lanes) as lane:
                    at = (r, first + lane)
                    scale = self._parameter(1, panel, number, tile, first + lane)
                    code.store(totals, at, totals[at] + sums[at] * scale)

        def finish(r: Expr, column: Coordinate, value: Expr) -> None:
            place = shifted(column, panel * self.width)
            for bias in product.node.inputs[2:]:
                value = value + product.wide(self.io.read(None, bias, plain([place])))
            self.io.store(code, product.place((), row + r, place), value)

        drain(code, tile, totals, finish, self.plan.task.epilogue_size)

    def _sums(
        self, left: Left, tile: Tile, panel: Expr, row: Expr, number: Expr, table: Buffer | None
    ) -> Buffer:
        """Sums of one block of K, not scaled yet."""
        code, product, block = self.code, self.product, self.plan.block
        zeros = code.scratch("zeros", (tile.width,), "float32")
        for first in range(0, tile.width, self.lanes):
            with code.vector("lane", self.lanes) as lane:
                zero = self._parameter(2, panel, number, tile, first + lane)
                code.store(zeros, (first + lane,), zero)
        per_word = _NIBBLES if self.plan.nibbles else 1
        panel_start = panel * (product.k // per_word * self.width)
        start = code.bind(panel_start + number * (block // per_word * tile.width), "start")
        begin = code.bind(number * block, "begin")

        def right(k: Expr, column: Expr) -> Expr:
            if not self.plan.nibbles:
                element = self.weights[start + k * tile.width + column]
                return tirx.Cast("float32", tirx.Cast("int32", element)) - zeros[column]
            word = self.weights[start + tirx.floordiv(k, _NIBBLES) * tile.width + column]
            number = self._nibble(word, tirx.floormod(k, _NIBBLES) * 4, column, table)
            return number if table is not None and self._one_zero else number - zeros[column]

        def load(buffer: Buffer, r: int, k: Expr) -> None:
            left.load(buffer, (), row + r, begin + k)

        unroll = min(block, self.knobs.unroll)
        return accumulate(
            code, tile, block, unroll, lambda r, k: left.word((), row + r, begin + k), right,
            by_lanes=load if broadcasts_lanes(self.target) else None,
        )  # fmt: skip

    def _nibble(self, word: Expr, place: Expr, column: Expr, table: Buffer | None) -> Expr:
        """Four bits of a word, from `place` on, as a float."""
        if table is not None:
            name = "llvm.x86.avx512.permvar.sf.512"
            number = table[tirx.floormod(column, self.lanes)]
            index = tirx.shift_right(word, place)
            return tirx.call_llvm_pure_intrin("float32", name, number, index)
        up = tirx.shift_left(word, tirx.const(28, "int32") - place)
        return tirx.Cast("float32", tirx.shift_right(up, tirx.const(28, "int32")))

    @property
    def _one_zero(self) -> bool:
        """Whether all weights have one zero, which the table takes off."""
        return self.plan.source.inputs[2].type.rank == 0

    def _table(self) -> Buffer | None:
        """The sixteen numbers of four bits, where one instruction looks one up by its bits."""
        if not self.plan.nibbles or self.target.vector_bits != 512:
            return None
        table = self.code.scratch("table", (self.lanes,), "float32")
        with self.code.vector("lane", self.lanes) as lane:
            signed = tirx.Cast("float32", tirx.Select(lane < 8, lane, lane - 16))
            self.code.store(table, (lane,), signed - self.zero[0] if self._one_zero else signed)
        return table

    def _parameter(self, place: int, panel: Expr, number: Expr, tile: Tile, column: Expr) -> Expr:
        """The scale (1) or zero (2) of a column in a block."""
        value, buffer = self.plan.source.inputs[place], (self.scale, self.zero)[place - 1]
        blocks = value.shape[1] if value.type.rank else 1
        block = number if blocks > 1 else 0
        return buffer[panel * (blocks * self.width) + block * tile.width + column]
