"""The loops of a product with constant weights.

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

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.fused import FusedEmitter
from optc.backends.tvm.templates.gemm_cost import LINE, GemmKnobs
from optc.backends.tvm.templates.gemm_parts import Parts, part_of
from optc.backends.tvm.templates.gemm_work import GemmWork
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.panel_pack import PanelPack
from optc.backends.tvm.templates.places import Coordinate, plain, shifted
from optc.backends.tvm.templates.plan import Emitted
from optc.backends.tvm.templates.product import Left, left_operand
from optc.backends.tvm.templates.products_apart import Passes
from optc.backends.tvm.templates.tail import Tail, TailSums
from optc.backends.tvm.templates.tile import Tile, accumulate, broadcasts_lanes, drain

_STREAM_AHEAD = 2048  # bytes


class GemmLoops:
    """Emits the function of some settings."""

    def __init__(self, work: GemmWork, knobs: GemmKnobs) -> None:
        self.work, self.knobs, self.product = work, knobs, work.product
        self.target, self.lanes = work.target, work.lanes
        self.dot, self.steps = work.dot, work.steps
        self.width, words = knobs.vectors * self.lanes, self.dot.packing
        self.tail = work.shape.tail(knobs)
        width, lanes = self.width, self.lanes
        if knobs.apart:
            width = lanes = knobs.apart * self.lanes // self.dot.sums
        self.pack = PanelPack(width, lanes, self.product.transposed, words, self.tail)
        weight = self.product.node.inputs[1]
        place = work.task.problem.body.inputs.index(weight)
        self.io: FusedEmitter = work.task.emitter({place: self.pack})
        self.weights = self.io.packed(weight)
        self.fetches, self.streams = work.fetches(knobs), work.streams(knobs)
        self.by_column = self.product.is_stored_by_column(self.io)
        self.code = Code()
        self.parts: Parts | None = None

    @property
    def _panel_size(self) -> int:
        """Words of a full panel."""
        return self.pack.words.rows(self.product.k) * self.width

    def run(self, symbol: str) -> Emitted:
        """The whole loop nest, and what follows the product."""
        code, product = self.code, self.product
        left = left_operand(code, self.io, product, self.target, self.dot)
        tiles = -(-product.m // self.knobs.rows)
        short, tall = divmod(product.m, tiles)
        apart = self.tail.columns if self.tail else 0
        panels = self.work.shape.panels(self.knobs)
        last = product.n - apart - (panels - 1) * self.width
        alike = panels if last == self.width and not apart else panels - 1
        parts = self.knobs.parts
        if parts > 1:
            kind = tvm_dtype(self.dot.sum)
            self.parts = Parts.of(code, parts, product.m, product.n, kind, self.lanes)
        deal = code.parallel if self.work.shape.is_shared(self.knobs) else code.independent
        with deal("item", parts * panels * tiles) as item:
            part, item = part_of(code, item, parts, panels * tiles)
            turn, strip = self._place(item, panels, tiles)
            panel = code.bind(self._panel(turn), "panel")
            row = code.bind(strip * short + tirx.min(strip, tall), "row")
            heights = (tall, short + 1), (tiles - tall, short)
            widths = (alike, (self.width, False)), (panels - alike, (last, apart > 0))
            for rows, chosen in code.cases(strip < tall, *heights):
                with chosen:
                    for (columns, more), here in code.cases(panel < alike, *widths):
                        with here:
                            if columns:
                                tile = Tile(rows, columns, self.lanes)
                                self._tile(left, tile, part, turn, strip, row)
                            if more and self.tail:
                                self._last(left, self.tail, rows, row)
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
        sections = self.work.sections(self.knobs)
        if sections == 1:
            return turn
        size = self.product.n // self.width // sections
        return tirx.floormod(turn, sections) * size + tirx.floordiv(turn, sections)

    def _ahead(self, following: Expr, strip: Expr) -> Callable[[Expr], None]:
        """Asks for the next panel, a part in every tile of this one."""
        length = self._panel_size // self.knobs.parts
        steps = self.work.blocks(self.knobs)
        size = -(-self.work.shape.strips(self.knobs) // self.knobs.blocks)
        within = tirx.floormod(strip, size) if self.knobs.blocks > 1 else strip

        def fetch(step: Expr) -> None:
            for i in range(self.fetches):
                part = ((within * steps + step) * self.fetches + i) * self.work.line
                # No further than that panel: the second-level cache may not hold a third one.
                self.code.prefetch(self.weights, following + tirx.min(part, length - 1))

        return fetch

    def _along(self, start: Expr, words: int) -> Callable[[Expr], None]:
        """Asks for what this panel comes to soon; a block of steps takes so many words."""
        ahead = _STREAM_AHEAD * self.work.line // LINE

        def fetch(block: Expr) -> None:
            here = start + block * words + ahead
            for i in range(self.streams):
                self.code.prefetch(self.weights, here + i * self.work.line, level=1)

        return fetch

    def _tile(self, left: Left, tile: Tile, part: Expr, turn: Expr, strip: Expr, row: Expr) -> None:
        if self.knobs.apart:
            self._passes(left, tile, part, turn, strip, row)
            return
        code, words, panel = self.code, self.pack.words, self._panel(turn)
        steps = self.steps // self.knobs.parts
        k0 = part * steps
        start = code.bind(panel * self._panel_size + k0 * tile.width, "start")
        following = self._panel(turn + 1) * self._panel_size + k0 * tile.width
        first = tile.width if words.origin else 0

        def right(k: Expr, column: Expr) -> Expr:
            return self.weights[start + (k * tile.width + first) + column]

        def origin(column: Expr) -> Expr:
            return self.weights[start + column]

        def load(buffer: Buffer, r: int, k: Expr) -> None:
            left.load(buffer, (), row + r, k0 + k)

        ahead = self._ahead(following, strip) if self.fetches else None
        if self.streams:
            sums = tile.rows * tile.vectors
            ahead = self._along(start, self.work.shape.block(sums, self.knobs.unroll) * tile.width)
        found = accumulate(
            code, tile, steps, self.knobs.unroll, left.rows((), row, k0), right, self.dot,
            by_lanes=load if broadcasts_lanes(self.target) else None,
            ahead=ahead,
            start=origin if words.origin else None,
            room=self.work.shape.room,
        )  # fmt: skip
        self._keep(tile, found, part, row, panel * self.width)

    def _passes(
        self, left: Left, tile: Tile, part: Expr, turn: Expr, strip: Expr, row: Expr
    ) -> None:
        """The same with sums apart, a few columns at a time."""
        code, panel = self.code, self._panel(turn)
        steps = self.steps // self.knobs.parts
        k0 = part * steps
        passes = Passes(code, tile, self.knobs.apart)
        start = code.bind(panel * self._panel_size + k0 * passes.columns, "start")
        following = self._panel(turn + 1) * self._panel_size

        def right(number: Expr, place: Expr) -> Expr:
            first = start + number * (self.steps * passes.columns) + place
            words = self.lanes // self.dot.sums
            return tirx.BufferLoad(self.weights, [tirx.Ramp(first, as_index(1), words)])

        ahead = self._ahead(following, strip) if self.fetches else None
        width = -(-passes.count * passes.columns // self.lanes) * self.lanes
        found = code.scratch("finished", (tile.rows, width), tvm_dtype(self.dot.sum))

        def keep(r: int, column: Expr, value: Expr) -> None:
            code.store(found, (r, column), value)

        passes.run(steps, self.knobs.unroll, left.rows((), row, k0), right, keep, ahead)
        self._keep(tile, found, part, row, panel * self.width)

    def _keep(self, tile: Tile, sums: Buffer, part: Expr, row: Expr, first: Expr) -> None:
        """What is summed up, or a part of it."""
        if self.parts is None:
            self._drain(tile, sums, row, first)
            return
        drain(self.code, tile, sums, self.parts.keep(part, row, first), 0, ready=self._is_ready)

    @property
    def _is_ready(self) -> bool:
        """Whether sums lie in memory."""
        return self.knobs.apart > 0

    def _last(self, left: Left, tail: Tail, rows: int, row: Expr) -> None:
        """The columns behind the last whole vector."""
        product, room = self.product, self.work.shape.room
        first = product.n - tail.columns
        start = self.pack.panels_size(first, product.k)
        apart = TailSums(self.code, tail, self.dot, left, self.weights, start, self.steps, room)
        for height, top, sums in apart.strips(rows, row):
            self._drain(Tile(height, tail.columns, self.lanes), sums, top, as_index(first))

    def _drain(self, tile: Tile, sums: Buffer, row: Expr, first: Expr) -> None:
        def finish(r: Expr, column: Coordinate, value: Expr) -> None:
            self._finish(row + r, shifted(column, first), value)

        size, by_column = self.work.task.epilogue_size, self.by_column
        drain(self.code, tile, sums, finish, size, by_column, self._is_ready)
