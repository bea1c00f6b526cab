"""Matrix products with a constant right side: `linear`, and `matmul` by weights.

The weights are packed at compile time into panels of a few vectors' width, `[N / width][K][width]`.
Each work item is one register tile: `rows` x `width` sums stay in registers over the whole of K, so
an element of the left side is read once per panel and a weight once per `rows` rows (Goto and van
de Geijn 2008, without the outer blocking: a panel of K rows fits in the second-level cache for
every K that models use). Items are dealt to threads in panel order. The epilogue runs on the tile.

Ragged edges: rows are divided into tiles whose heights differ by one, so no remainder tile is left;
the last panel has as many vectors as it needs, and its last vector is stored in pieces. Columns
that fill half of that vector or less are taken apart along K where that pays, see `tail.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.dot import Dot
from optc.backends.tvm.templates.fused import Fused, FusedEmitter, fused
from optc.backends.tvm.templates.gemm_cost import LINE, GemmKnobs, GemmShape
from optc.backends.tvm.templates.gemm_parts import Parts, part_of
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.panel_pack import PanelPack
from optc.backends.tvm.templates.places import Coordinate, plain, shifted
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.product import Left, Product, left_operand, multiplies
from optc.backends.tvm.templates.tail import MOST_ROWS, Tail, TailSums
from optc.backends.tvm.templates.tile import (
    FLOATS,
    Tile,
    accumulate,
    broadcasts_lanes,
    drain,
    register_rows,
)
from optc.ir.ops import Linear, MatMul

_MOST_VECTORS = 8  # wider tiles only lower the rows
_UNROLL = 2  # steps of K per loop iteration: more only takes time to compile
_FAR_UNROLL = 4  # with 8 and two fetches, LLVM keeps sums of dot products in memory
_MOST_FETCHES = 2
_ASKED = 1 / 8  # of the second-level cache, from which on weights are asked for
_STREAMED = 1.5  # times what the second-level caches hold: going round, little is left of so much
_STREAM_LINES = 16  # in a loop iteration: with more, Zen 5's own prefetching misses some
_STREAM_AHEAD = 2048  # bytes


@dataclass(frozen=True)
class Gemm:
    """Template of products with constant weights."""

    name: str = "gemm"
    version: int = 3

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes a task around one `linear` or `matmul` whose right side is a constant matrix."""
        anchors = [n for n in problem.body.nodes if isinstance(n.op, Linear | MatMul)]
        if len(anchors) != 1:
            return Miss("the task has no single matrix product")
        (anchor,) = anchors
        weight = anchor.inputs[1]
        constant = {problem.body.inputs[i] for i in problem.constants}
        if weight not in constant or problem.body.users[weight] != (anchor,):
            return Miss("the right side is not a constant of the product's own")
        if not Product(anchor).shared:
            return Miss("the right side is a batch of matrices")
        if not multiplies(anchor):
            return Miss(f"products of {anchor.inputs[0].type} go elsewhere")
        task = fused(problem, anchor)
        return task if isinstance(task, Miss) else GemmPlan(task)


@dataclass(frozen=True)
class GemmPlan:
    """A product of M x K by K x N, where M counts all leading axes of the left side."""

    task: Fused
    template: str = "gemm/3"

    @property
    def product(self) -> Product:
        """The product."""
        return Product(self.task.anchor)

    @cached_property
    def dot(self) -> Dot:
        """How the target multiplies and adds."""
        return self.product.dot(self.task.problem.target, pairs=self.product.m > 1)

    @property
    def steps(self) -> int:
        """K in words."""
        return self.dot.words(self.product.k)

    @property
    def line(self) -> int:
        """Words of weights in a cache line."""
        return LINE * 8 // self.dot.packing.word.bits

    @cached_property
    def shape(self) -> GemmShape:
        """What the cost depends on."""
        target, product = self.task.problem.target, self.product
        lanes = target.lanes(product.dtype)
        return GemmShape(product.m, product.n, self.steps, self.line, self.dot, target, lanes)

    def candidates(self) -> Sequence[Knobs]:
        """Tile shapes, the fewest estimated cycles first."""
        target = self.task.problem.target
        lanes = target.lanes(self.product.dtype)
        found = []
        for vectors in range(1, min(_MOST_VECTORS, -(-self.product.n // lanes)) + 1):
            most = register_rows(target, vectors, self.dot)
            if self.shape.may_have_tail:
                most = min(most, MOST_ROWS)
            for limit in dict.fromkeys((most, min(most, self.shape.apart))):
                # Heights that differ by one at most; a lower one may suit the threads, and
                # strips that are all equal are one case.
                tiles = -(-self.product.m // limit)
                even = max(n for n in range(1, limit + 1) if self.product.m % n == 0)
                for count in dict.fromkeys((tiles, tiles + 1, self.product.m // even)):
                    rows = -(-self.product.m // count)
                    knobs = GemmKnobs(rows, vectors, self._unroll(rows, vectors, count))
                    found += [replace(knobs, blocks=n) for n in self.shape.near_blocks(knobs)]
                    if count > 1 and self.may_be_cut:
                        unroll = self._unroll(rows, vectors, count, self.parts)
                        found.append(replace(knobs, unroll=unroll, parts=self.parts))
        return sorted(dict.fromkeys(found), key=self.cycles)

    @property
    def parts(self) -> int:
        """Into how many parts sums may be cut: one for each core."""
        return self.task.problem.target.cores

    @property
    def may_be_cut(self) -> bool:
        """Whether parts of sums are worth a thought: of floats, whose weights lie far."""
        plain_ = self.dot == FLOATS and self.steps % self.parts == 0 and self.parts > 1
        return plain_ and self.shape.is_worth_parts

    def _unroll(self, rows: int, vectors: int, strips: int, parts: int = 1) -> int:
        """Steps per iteration; for weights from afar a few more, so that fewer lines are asked for.

        They divide K, or a part: behind a remainder LLVM would keep sums in memory, not registers.
        """
        target = self.task.problem.target
        lanes = target.lanes(self.product.dtype)
        if broadcasts_lanes(target):
            return lanes
        wanted = _UNROLL
        if strips == 1 and self._is_far:
            wanted = max(1, _STREAM_LINES * self.line // (vectors * lanes))
        elif strips > 1 and self._is_asked_for:
            wanted = _FAR_UNROLL
        elif self.shape.is_crowded(GemmKnobs(rows, vectors, 1)):
            wanted = 1  # LLVM would load the next step's weights early, and spill sums
        return max(steps for steps in range(1, wanted + 1) if self.steps // parts % steps == 0)

    @property
    def _is_far(self) -> bool:
        """Whether the weights come from beyond the second-level cache each time."""
        return self._weight_bytes > self.task.problem.target.cache("l2", 0)

    @property
    def _is_asked_for(self) -> bool:
        """Whether several strips share what is fetched: other layers' weights came in between."""
        return self._weight_bytes > _ASKED * self.task.problem.target.cache("l2", 0)

    @property
    def _weight_bytes(self) -> int:
        return self.product.node.inputs[1].type.nbytes

    @property
    def _is_streamed(self) -> bool:
        """Whether they do though each core has a second-level cache of its own."""
        target = self.task.problem.target
        return self._weight_bytes > _STREAMED * target.cores * target.cache("l2", 1 << 18)

    def streams(self, knobs: GemmKnobs) -> int:
        """Cache lines of this panel to ask for in each block of steps, `_STREAM_AHEAD` before use.

        A single strip goes through its weights once. The hardware sees that by itself, but how well
        depends on where loop and weights happen to lie: 180 to 228 GB/s for the same loop from the
        third-level cache of a Zen 5, where plain reading takes 230. Asking makes it 220 to 228.
        """
        if self.shape.strips(knobs) > 1 or not self._is_streamed:
            return 0
        steps = self.shape.block(knobs.rows * knobs.vectors, knobs.unroll)
        lanes = self.task.problem.target.lanes(self.product.dtype)
        return max(1, steps * knobs.vectors * lanes // self.line)

    def sections(self, knobs: GemmKnobs) -> int:
        """Equal runs of columns whose panels take turns.

        Three times as many columns as K are the queries, keys and values of one width: those of a
        head are then one core's, which attention finds there when it shares out heads. Weights that
        stream from afar are better read in order: GPT-2 took 2 to 4 % longer by turns.
        """
        product, width = self.product, knobs.vectors * self.shape.lanes
        merged = product.n == 3 * product.k and product.n % (3 * width) == 0
        shared = self.task.problem.target.cores > 1 and knobs.blocks == 1 and product.m > 1
        return 3 if merged and shared and not self._is_streamed else 1

    def fetches(self, knobs: GemmKnobs) -> int:
        """Cache lines of the next panel to ask for in each block of steps.

        A panel is read from memory for its first strip of rows and from the second-level cache for
        the others: without asking ahead, memory rests while these run.
        """
        strips = -(-self.shape.strips(knobs) // knobs.blocks)
        steps = self.steps // knobs.parts // knobs.unroll
        if strips < 2 or not self._is_asked_for or not steps:
            return 0
        lanes = self.task.problem.target.lanes(self.product.dtype)
        lines = self.steps // knobs.parts * knobs.vectors * lanes / self.line
        return min(_MOST_FETCHES, math.ceil(lines / (strips * steps)))

    def cycles(self, knobs: GemmKnobs) -> float:
        """Estimated cycles until the last thread is done."""
        return self.shape.cycles(knobs)

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over tiles."""
        if not isinstance(knobs, GemmKnobs):
            raise TypeError(f"gemm does not know {knobs!r}")
        return _Emission(self, knobs).run(symbol)


class _Emission:
    def __init__(self, plan: GemmPlan, knobs: GemmKnobs) -> None:
        self.plan, self.knobs, self.product = plan, knobs, plan.product
        self.target = plan.task.problem.target
        self.lanes = self.target.lanes(self.product.dtype)
        self.dot, self.steps = plan.dot, plan.steps
        width, words = knobs.vectors * self.lanes, self.dot.packing
        self.tail = plan.shape.tail(knobs)
        self.pack = PanelPack(width, self.lanes, self.product.transposed, words, self.tail)
        weight = self.product.node.inputs[1]
        place = plan.task.problem.body.inputs.index(weight)
        self.io: FusedEmitter = plan.task.emitter({place: self.pack})
        self.weights = self.io.packed(weight)
        self.fetches, self.streams = plan.fetches(knobs), plan.streams(knobs)
        self.by_column = self.product.is_stored_by_column(self.io)
        self.code = Code()
        self.parts: Parts | None = None

    @property
    def panel_size(self) -> int:
        """Words of a full panel."""
        return self.pack.words.rows(self.product.k) * self.pack.width

    def run(self, symbol: str) -> Emitted:
        code, product = self.code, self.product
        left = left_operand(code, self.io, product, self.target, self.dot)
        tiles = -(-product.m // self.knobs.rows)
        short, tall = divmod(product.m, tiles)
        apart = self.tail.columns if self.tail else 0
        panels = self.plan.shape.panels(self.knobs)
        last = product.n - apart - (panels - 1) * self.pack.width
        alike = panels if last == self.pack.width and not apart else panels - 1
        parts = self.knobs.parts
        if parts > 1:
            kind = tvm_dtype(self.dot.sum)
            self.parts = Parts.of(code, parts, product.m, product.n, kind, self.lanes)
        deal = code.parallel if self.plan.shape.is_shared(self.knobs) else code.independent
        with deal("item", parts * panels * tiles) as item:
            part, item = part_of(code, item, parts, panels * tiles)
            turn, strip = self._place(item, panels, tiles)
            panel = code.bind(self._panel(turn), "panel")
            row = code.bind(strip * short + tirx.min(strip, tall), "row")
            heights = (tall, short + 1), (tiles - tall, short)
            widths = (alike, (self.pack.width, False)), (panels - alike, (last, apart > 0))
            for rows, chosen in code.cases(strip < tall, *heights):
                with chosen:
                    for (columns, more), here in code.cases(panel < alike, *widths):
                        with here:
                            if columns:
                                tile = Tile(rows, columns, self.lanes)
                                self.tile(left, tile, part, turn, strip, row)
                            if more and self.tail:
                                self.last(left, self.tail, rows, row)
        if self.parts:
            self.parts.add_up(product.n, self._finish)
        return self.io.finish(code, symbol)

    def _finish(self, row: Expr, column: Coordinate, value: Expr) -> None:
        for bias in self.product.node.inputs[2:]:
            value = value + self.product.wide(self.io.read(None, bias, plain([column])))
        self.io.store(self.code, self.product.place((), row, column), value)

    def _place(self, item: Expr, panels: int, strips: int) -> tuple[Expr, Expr]:
        """The panel's turn and the strip of an item: panel by panel within a block of strips."""
        code, size = self.code, -(-strips // self.knobs.blocks)
        block: Expr = as_index(0)
        here: Expr | int = size
        if size < strips:
            block = code.bind(tirx.floordiv(item, size * panels), "block")
            item = code.bind(item - block * (size * panels), "item")
        if strips % size:
            here = code.bind(tirx.min(strips - block * size, size), "here")
        turn = code.bind(tirx.floordiv(item, here), "turn")
        return turn, code.bind(block * size + tirx.floormod(item, here), "strip")

    def _panel(self, turn: Expr) -> Expr:
        """The panel whose turn it is."""
        sections = self.plan.sections(self.knobs)
        if sections == 1:
            return turn
        size = self.product.n // self.pack.width // sections
        return tirx.floormod(turn, sections) * size + tirx.floordiv(turn, sections)

    def ahead(self, following: Expr, strip: Expr) -> Callable[[Expr], None]:
        """Asks for the next panel, a part in every tile of this one."""
        length = self.panel_size // self.knobs.parts
        steps = self.steps // self.knobs.parts // self.knobs.unroll
        size = -(-self.plan.shape.strips(self.knobs) // self.knobs.blocks)
        within = tirx.floormod(strip, size) if self.knobs.blocks > 1 else strip

        def fetch(step: Expr) -> None:
            for i in range(self.fetches):
                part = ((within * steps + step) * self.fetches + i) * self.plan.line
                # No further than that panel: the second-level cache may not hold a third one.
                self.code.prefetch(self.weights, following + tirx.min(part, length - 1))

        return fetch

    def along(self, start: Expr, tile: Tile) -> Callable[[Expr], None]:
        """Asks for what this panel comes to soon."""
        steps = self.plan.shape.block(tile.rows * tile.vectors, self.knobs.unroll)
        ahead = _STREAM_AHEAD * self.plan.line // LINE

        def fetch(block: Expr) -> None:
            here = start + block * (steps * tile.width) + ahead
            for i in range(self.streams):
                self.code.prefetch(self.weights, here + i * self.plan.line, level=1)

        return fetch

    def tile(self, left: Left, tile: Tile, part: Expr, turn: Expr, strip: Expr, row: Expr) -> None:
        code, words, panel = self.code, self.pack.words, self._panel(turn)
        steps = self.steps // self.knobs.parts
        k0 = part * steps
        start = code.bind(panel * self.panel_size + k0 * tile.width, "start")
        following = self._panel(turn + 1) * self.panel_size + k0 * tile.width
        first = tile.width if words.origin else 0

        def right(k: Expr, column: Expr) -> Expr:
            return self.weights[start + (k * tile.width + first) + column]

        def origin(column: Expr) -> Expr:
            return self.weights[start + column]

        def load(buffer: Buffer, r: int, k: Expr) -> None:
            left.load(buffer, (), row + r, k0 + k)

        ahead = self.ahead(following, strip) if self.fetches else None
        if self.streams:
            ahead = self.along(start, tile)
        sums = accumulate(
            code, tile, steps, self.knobs.unroll, left.rows((), row, k0), right, self.dot,
            by_lanes=load if broadcasts_lanes(self.target) else None,
            ahead=ahead,
            start=origin if words.origin else None,
            room=self.plan.shape.room,
        )  # fmt: skip
        if self.parts:
            keep = self.parts.keep(part, row, panel * self.pack.width)
            drain(code, tile, sums, keep, 0)
            return
        self._drain(tile, sums, row, panel * self.pack.width)

    def last(self, left: Left, tail: Tail, rows: int, row: Expr) -> None:
        """The columns behind the last whole vector."""
        product, room = self.product, self.plan.shape.room
        first = product.n - tail.columns
        start = self.pack.panels_size(first, product.k)
        apart = TailSums(self.code, tail, self.dot, left, self.weights, start, self.steps, room)
        for height, top, sums in apart.strips(rows, row):
            self._drain(Tile(height, tail.columns, self.lanes), sums, top, as_index(first))

    def _drain(self, tile: Tile, sums: Buffer, row: Expr, first: Expr) -> None:
        def finish(r: Expr, column: Coordinate, value: Expr) -> None:
            self._finish(row + r, shifted(column, first), value)

        drain(self.code, tile, sums, finish, self.plan.task.epilogue_size, self.by_column)
