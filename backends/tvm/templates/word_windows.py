"""The loops of `tap_words`: make the words of a band of rows, then sum windows over them.

An item of work is a strip of bands, for some of the channels. Words of a stretch of a band lie in
scratch memory of the first-level cache, with those of the border beside them, so that every window
is a whole one: rows outside are zeros in a word, columns outside are words of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.image import ImageReader, channels_at_end
from optc.backends.tvm.templates.interleave import halves_of, words_of
from optc.backends.tvm.templates.loops import FORK_CYCLES, Code, as_index
from optc.backends.tvm.templates.nest import digits_of
from optc.backends.tvm.templates.places import Lane, plain
from optc.backends.tvm.templates.plan import Emitted
from optc.backends.tvm.templates.slide import powers_of_two, when_all
from optc.backends.tvm.templates.tap_pack import TapKnobs, meetings, span
from optc.backends.tvm.templates.taps import Phase, pieces
from optc.ir.dtype import DType
from optc.ir.targets.target import Arch

if TYPE_CHECKING:
    from optc.backends.tvm.templates.tap_words import TapPlan

_SCRATCH = 1 << 14  # bytes of words: on the stack, and in the first level beside what is read
_FLIP = -0x7F7F7F80  # the sign bit of each byte of a word
_SECTION = 16  # channels that are interleaved at once, at least
_STRIPS_PER_CORE = 4


@dataclass(frozen=True, slots=True)
class _Block:
    """`size` channels from `first` on, of whose words there are whole vectors."""

    first: Expr
    size: int
    width: int


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Tiles of a band from output column `left` on, whose words are made together."""

    batch: Expr
    top: Expr  # output row
    left: Expr
    span: int  # columns of words, at most


class WordWindows:
    """One emission."""

    def __init__(self, plan: TapPlan, knobs: TapKnobs) -> None:
        self.plan, self.knobs, self.node = plan, knobs, plan.node
        self.rows: Phase = plan.shape.axes[0][0]
        self.columns: Phase = plan.shape.axes[1][0]
        self.lanes = plan.target.lanes(DType.I32)
        place = plan.task.problem.body.inputs.index(self.node.inputs[1])
        self.io = plan.task.emitter({place: plan.pack(knobs)})
        self.weights = self.io.packed(self.node.inputs[1])
        self.code = Code()
        self.read = span(knobs.rows, self.rows.move, self.rows.taps, 1)
        self.group = plan.dot.group
        self.words = -(-self.read // self.group)
        kernel = (self.rows.taps, self.columns.taps)
        met = meetings(kernel, knobs.rows, self.rows.move, self.group)
        self.meetings = {(m.row, m.word, m.column): number for number, m in enumerate(met)}
        self.tiles = pieces(self.columns.count, knobs.columns)

    def run(self, symbol: str) -> Emitted:
        """The function."""
        plan, code = self.plan, self.code
        x, self.border = plan.image
        order = channels_at_end(x.type.rank, channels_last=True)
        stored, cores = tvm_dtype(x.type.dtype), plan.target.cores
        reader = ImageReader(code, self.io, x, stored, order, 4 * self.lanes, cores > 1)
        self.image = reader.image(few=1)
        whole, rest = divmod(plan.shape.channels, 4 * self.lanes)
        bands = -(-self.rows.count // self.knobs.rows)
        cycles = plan.cycles(self.knobs) * plan.shape.batch * (plan.shape.channels / self.lanes)
        strips, parts = 1, 1
        if cycles > FORK_CYCLES and cores > 1:
            wanted = -(-_STRIPS_PER_CORE * cores // plan.shape.batch)
            strips = min(bands, wanted)
            parts = max(1, min(whole, wanted // strips))
        radices = [plan.shape.batch, strips, parts]
        with code.shared("item", math.prod(radices), cycles) as item:
            batch, strip, part = digits_of(code, item, radices)
            first = code.bind(tirx.floordiv(strip * bands, strips), "first")
            last = code.bind(tirx.floordiv((strip + 1) * bands, strips), "last")
            self.scratch: Buffer = code.scratch("words", (self._scratch(),), "int32")
            if whole:
                low = code.bind(tirx.floordiv(part * whole, parts), "low")
                high = code.bind(tirx.floordiv((part + 1) * whole, parts), "high")
                with code.loop("block", whole if parts == 1 else high - low) as block:
                    channel = code.bind((low + block) * (4 * self.lanes), "channel")
                    self._strip(batch, first, last, _Block(channel, *[4 * self.lanes] * 2))
            with when_all(code, [part == parts - 1] if parts > 1 and rest else []):
                if rest:
                    width = -(-rest // self.lanes) * self.lanes
                    at = as_index(whole * 4 * self.lanes)
                    self._strip(batch, first, last, _Block(at, rest, width))
        return self.io.finish(code, symbol)

    def _stretches(self, width: int) -> tuple[int, int]:
        """Tiles whose words are made together, and columns of words that they read."""
        limit = _SCRATCH // (4 * width * self.words)
        tiles = len(self.tiles)
        while tiles > 1 and self._span(tiles) > limit:
            tiles -= 1
        return tiles, self._span(tiles)

    def _span(self, tiles: int) -> int:
        columns = self.columns
        return span(sum(self.tiles[:tiles]), columns.move, columns.taps, columns.gap)

    def _scratch(self) -> int:
        """Words of the largest stretch: narrow blocks may have longer ones."""
        whole, rest = divmod(self.plan.shape.channels, 4 * self.lanes)
        widths = [4 * self.lanes] * (whole > 0) + [-(-rest // self.lanes) * self.lanes] * (rest > 0)
        return max(self.words * self._stretches(width)[1] * width for width in widths)

    def _strip(self, batch: Expr, first: Expr, last: Expr, block: _Block) -> None:
        """All bands of a strip, stretch by stretch."""
        code, total = self.code, len(self.tiles)
        tiles, columns = self._stretches(block.width)
        short, longer = min(self.tiles), sum(size > min(self.tiles) for size in self.tiles)
        with code.loop("band", last - first) as step:
            top = code.bind((first + step) * self.knobs.rows, "top")
            with code.loop("stretch", -(-total // tiles)) as number:
                start = code.bind(number * tiles, "start")
                left = code.bind(start * short + tirx.min(start, longer), "left")
                count: Expr | int = tiles
                if total % tiles:
                    count = code.bind(tirx.min(as_index(tiles), total - start), "count")
                stretch = _Stretch(batch, top, left, columns)
                self._make(stretch, block)
                with code.loop("v", block.width // self.lanes) as vector:
                    with code.loop("tile", count) as tile:
                        self._tile_of(stretch, block, vector, code.bind(start + tile, "number"))

    def _make(self, stretch: _Stretch, block: _Block) -> None:
        """Words of a stretch: in the image, and beside it."""
        code, columns = self.code, self.columns
        begin = code.bind(stretch.left * columns.move + columns.offset, "begin")
        low = code.bind(tirx.max(as_index(0), -begin), "low")
        high = code.bind(tirx.min(as_index(stretch.span), columns.extent - begin), "high")
        high = code.bind(tirx.max(low, high), "high")
        if columns.offset < 0:
            with code.loop("x", tirx.min(low, as_index(stretch.span))) as x:
                self._empty(stretch, block, x)
        at = code.bind(stretch.top * self.rows.move + self.rows.offset, "at")
        bands = -(-self.rows.count // self.knobs.rows)
        reach = (bands * self.knobs.rows - 1) * self.rows.move + self.rows.offset + self.rows.taps
        inside = []
        if self.rows.offset < 0:
            inside.append(at >= 0)
        if reach > self.rows.extent:
            inside.append(at + self.read <= self.rows.extent)
        with when_all(code, inside), code.loop("x", high - low) as x:
            self._column(stretch, block, at, begin, low + x, bordered=False)
        if inside:
            with code.otherwise(tirx.all(*inside) if len(inside) > 1 else inside[0]):
                with code.loop("x", high - low) as x:
                    self._column(stretch, block, at, begin, low + x, bordered=True)
        with code.loop("x", stretch.span - high) as x:
            self._empty(stretch, block, high + x)

    def _place(self, stretch: _Stretch, block: _Block, word: int, x: Expr) -> Expr:
        return (x + word * stretch.span) * block.width

    def _empty(self, stretch: _Stretch, block: _Block, x: Expr) -> None:
        number = self._stored(tirx.const(self._repeated(), "int32"))
        for word in range(self.words):
            for vector in range(0, block.width, self.lanes):
                place = self._place(stretch, block, word, x) + vector
                with self.code.vector("lane", self.lanes) as lane:
                    self.code.store(self.scratch, (place + lane,), number)

    def _repeated(self) -> int:
        """A word of the border."""
        part = self._extended(self.border) % (1 << self.bits)
        word = sum(part << self.bits * row for row in range(self.group))
        return word - (1 << 32) if word >> 31 else word

    def _extended(self, byte: int) -> int:
        """A byte as the image's type has it."""
        return (byte + 128) % 256 - 128 if self.signed else byte % 256

    def _column(
        self, stretch: _Stretch, block: _Block, at: Expr, begin: Expr, x: Expr, *, bordered: bool
    ) -> None:
        """The words of one column."""
        done, sections = 0, block.size // _SECTION * _SECTION
        widths = [w for w in powers_of_two(sections) if w <= 4 * self.lanes]
        for word in range(self.words):
            done = 0
            place = self._place(stretch, block, word, x)
            for width in widths:
                rows = [
                    self._bytes(stretch, block, at, word * self.group + row, begin + x, done, width,
                                bordered=bordered)
                    for row in range(self.group)
                ]  # fmt: skip
                vectors = self._words(rows, width)
                lanes = width // len(vectors)
                for number, made in enumerate(vectors):
                    ramp = tirx.Ramp(place + done + number * lanes, tirx.const(1, "int32"), lanes)
                    self.code.store(self.scratch, (ramp,), self._stored(made))
                done += width
            with self.code.loop("c", block.size - done) as c:
                total: Expr = tirx.const(0, "int32")
                for row in range(self.group):
                    byte = self._bytes(stretch, block, at, word * self.group + row, begin + x,
                                       done + c, 1, bordered=bordered)  # fmt: skip
                    bits = self._part(byte)
                    shift = tirx.const(self.bits * row, "int32")
                    total = tirx.bitwise_or(total, tirx.shift_left(bits, shift))
                self.code.store(self.scratch, (place + done + c,), self._stored(total))

    def _words(self, rows: list[Expr], width: int) -> list[Expr]:
        if self.group == 2:
            return halves_of(self.code, rows, width, self.signed)
        return words_of(self.code, rows, width)

    def _part(self, byte: Expr) -> Expr:
        """A byte of a word, in its lowest bits."""
        kept = 8 if not self.signed else self.bits
        mask = tirx.const((1 << kept) - 1, "int32")
        return tirx.bitwise_and(tirx.Cast("int32", byte), mask)

    @property
    def bits(self) -> int:
        """Of a part of a word."""
        return 32 // self.group

    @property
    def signed(self) -> bool:
        """Whether the image's bytes are."""
        return self.node.inputs[0].type.dtype is DType.I8

    def _stored(self, word: Expr) -> Expr:
        if not self.plan.dot.flipped:
            return word
        flip: Expr = tirx.const(_FLIP, "int32")
        lanes = int(str(word.ty).partition("x")[2] or 1)
        return tirx.bitwise_xor(word, tirx.Broadcast(flip, lanes) if lanes > 1 else flip)

    def _bytes(
        self, stretch: _Stretch, block: _Block, at: Expr, row: int, column: Expr,
        channel: Expr | int, width: int, *, bordered: bool,
    ) -> Expr:  # fmt: skip
        """Bytes of one row and column, the border's outside."""
        kind = "int8" if width == 1 else f"int8x{width}"
        border: Expr = tirx.const((self.border + 128) % 256 - 128, "int8")
        border = border if width == 1 else tirx.Broadcast(border, width)
        if row >= self.read:
            return border  # meets weights of zero
        place = at + row
        held = tirx.max(as_index(0), tirx.min(place, self.rows.extent - 1)) if bordered else place
        start = self.image.at([stretch.batch, held, column, block.first + channel])
        start = self.code.bind(start, "from")
        if width > 1:
            start = tirx.Ramp(start, tirx.const(1, "int32"), width)
        found = tirx.BufferLoad(self.image.buffer, [start])
        if str(found.ty) != kind:
            found = tirx.Cast(kind, found) if width == 1 else tirx.reinterpret(kind, found)
        if not bordered:
            return found
        return tirx.Select(tirx.all(place >= 0, place < self.rows.extent), found, border)

    def _tile_of(self, stretch: _Stretch, block: _Block, vector: Expr, number: Expr) -> None:
        """The tile of that number: they have two widths at most."""
        code, short = self.code, min(self.tiles)
        longer = sum(size > short for size in self.tiles)
        left = code.bind(number * short + tirx.min(number, longer), "column")
        sides = code.cases(number < longer, (longer, short + 1), (len(self.tiles) - longer, short))
        for size, within in sides:
            with within:
                self._tile(stretch, block, vector, left, size)

    def _tile(self, stretch: _Stretch, block: _Block, vector: Expr, left: Expr, size: int) -> None:
        """Sums of all rows of the band, column of words by column."""
        code, lanes, columns = self.code, self.lanes, self.columns
        sums = code.scratch("sums", (self.knobs.rows * size, lanes), "int32")
        at = code.bind(vector * lanes, "at")
        channel = code.bind(block.first + at, "channel")
        with code.vector("lane", lanes) as lane:
            start = code.bind(self._start(channel, lane, block), "start")
            for place in range(self.knobs.rows * size):
                code.store(sums, (as_index(place), lane), start)
        first = code.bind((left - stretch.left) * columns.move, "x")
        for x in range(span(size, columns.move, columns.taps, columns.gap)):
            uses = list(_uses(columns, size, x))
            for word in range(self.words) if uses else ():
                place = code.bind(self._place(stretch, block, word, first + x) + at, "place")
                with code.vector("lane", lanes) as lane:
                    read = code.bind(self.scratch[place + lane], "word")
                    for position, tap in uses:
                        for row in range(self.knobs.rows):
                            meeting = self.meetings.get((row, word, tap))
                            if meeting is not None:
                                where = (as_index(row * size + position), lane)
                                weight = self.weights[meeting, channel + lane]
                                total = self.plan.dot.add(sums[where], read, weight)
                                code.store(sums, where, self._in_order(total))
        self._finish(stretch, block, channel, left, size, sums)

    def _in_order(self, total: Expr) -> Expr:
        """The sum, which LLVM takes as it is.

        It would add products to each other first, and find no registers for all of them.
        """
        if self.plan.dot.adds or self.plan.target.arch is not Arch.X86_64:
            return total
        held = tirx.reinterpret("float32", total)
        fence = tirx.call_llvm_pure_intrin("float32", "llvm.arithmetic.fence", held)
        return tirx.reinterpret("int32", fence)

    def _start(self, channel: Expr, lane: Expr, block: _Block) -> Expr:
        """What sums start at; channels beyond the last have any bias."""
        start: Expr = tirx.const(0, "int32")
        if self.plan.dot.origin:
            start = self.weights[int(self.weights.shape[0]) - 1, channel + lane]
        if len(self.node.inputs) < 3:
            return start
        if block.size == block.width:
            where = plain([Lane(channel, lane, self.lanes)])
        else:
            where = [tirx.min(channel + lane, as_index(self.plan.shape.channels - 1))]
        return start + self.io.read(None, self.node.inputs[2], where)

    def _finish(
        self, stretch: _Stretch, block: _Block, channel: Expr, left: Expr, size: int, sums: Buffer
    ) -> None:
        """Write the rows that are there, of the channels that are there."""
        code, count = self.code, self.rows.count
        whole = block.size // self.lanes * self.lanes
        for row in range(self.knobs.rows):
            place = code.bind(stretch.top + row, "row")
            inside = [place < count] if count % self.knobs.rows and row else []
            with when_all(code, inside):
                full = [channel - block.first < whole] if whole < block.size else []
                if whole:
                    with when_all(code, full):
                        self._write(stretch, channel, place, left, size, sums, row, 0, self.lanes)
                at = 0
                if full:
                    with code.otherwise(full[0]):
                        for lanes in powers_of_two(block.size - whole):
                            self._write(stretch, channel, place, left, size, sums, row, at, lanes)
                            at += lanes

    def _write(
        self, stretch: _Stretch, channel: Expr, place: Expr, left: Expr, size: int, sums: Buffer,
        row: int, at: int, lanes: int,
    ) -> None:  # fmt: skip
        code = self.code
        for position in range(size):
            with code.vector("lane", lanes) as lane:
                where = Lane(channel + at, lane, lanes)
                index = self.plan.shape.index(stretch.batch, (place, left + position), where)
                self.io.store(code, index, sums[as_index(row * size + position), lane + at])


def _uses(columns: Phase, size: int, x: int) -> Iterator[tuple[int, int]]:
    """Positions of a tile that read column x of its words, each with its tap."""
    for tap in range(columns.taps):
        position, rest = divmod(x - tap * columns.gap, columns.move)
        if not rest and 0 <= position < size:
            yield position, tap
