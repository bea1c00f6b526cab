"""The loops of attention: scores of a block of queries stay in cache, never the whole matrix.

For a block of a few vectors of queries, keys are met one tile after the other (Dao et al. 2022,
algorithm 1, with long key blocks and without its outer loop over keys). Scores are kept transposed,
`[key][query]`: a vector holds the scores of one key for neighbouring queries, so that maxima and
sums run straight down, keys and weights are broadcast from where they lie, and only the block's
queries are transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.lower.floatbits import ROUNDER, f32, opaque, polynomial
from optc.backends.tvm.templates.image import Image
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.places import Coordinate, Lane
from optc.backends.tvm.templates.shuffles import transposed
from optc.backends.tvm.templates.taps import pieces
from optc.backends.tvm.templates.tile import Tile, drain

_DTYPE = "float32"
LOG2_E = 1.4426950408889634
_PANELS = 8  # of values that are emitted one by one; more are a loop: code grows with them
_LOWEST = -125.0  # weights below 2^-125 of the largest count as that
# 2^r for |r| <= 1/2, relative error 1.6e-7: minimax with the first coefficient 1.
_EXP2 = (1.0, 0.6931470632553101, 0.24022234976291656, 0.055506788194179535,
         0.009671962819993496, 0.0013274564407765865)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AttendKnobs:
    """`vectors` of queries per block, `keys` per tile, `span` keys before sums are rescaled."""

    vectors: int
    keys: int
    span: int


@dataclass(frozen=True)
class Heads:
    """What attention is computed of; every callable takes the head's coordinates first.

    `query(head, row, column)` is scaled so that scores are powers of two. `score(head, row, key,
    value)` adds the mask, in a vector loop over rows. `finish(head, row, column, value)` stores.
    `key_head` gives the coordinates of a head's keys and values.
    """

    rows: int
    keys: int
    depth: int
    width: int
    causal: bool
    hides: bool  # a score may be minus infinity
    query: Callable[[Sequence[Expr], Expr, Expr], Expr]
    key_head: Callable[[Sequence[Expr]], list[Expr]]
    key: Image
    value: Image
    score: Callable[[Sequence[Expr], Expr, Expr, Expr], Expr] | None
    finish: Callable[[Sequence[Expr], Expr, Coordinate, Expr], None]
    epilogue_size: int


@dataclass(frozen=True, slots=True)
class _Run:
    """`repeat` tiles or blocks of `size`, the first at `first`."""

    first: int
    size: int
    repeat: int


def _runs(total: int, limit: int) -> list[_Run]:
    found: list[_Run] = []
    at = 0
    for size in pieces(total, limit):
        if found and found[-1].size == size:
            found[-1] = _Run(found[-1].first, size, found[-1].repeat + 1)
        else:
            found.append(_Run(at, size, 1))
        at += size
    return found


@dataclass(frozen=True)
class Attend:
    """Emits one block of queries of one head."""

    code: Code
    heads: Heads
    knobs: AttendKnobs
    lanes: int
    rows_per_tile: Callable[[int], int]  # rows of results, given the vectors of a row

    def blocks(self) -> list[tuple[int, int, int, int]]:
        """(first block, blocks, vectors, rows) of each kind of block; the last may be narrower."""
        rows, wide = self.heads.rows, self.knobs.vectors * self.lanes
        full, left = divmod(rows, wide)
        found = [(0, full, self.knobs.vectors, wide)] if full else []
        if left:
            found.append((full, 1, -(-left // self.lanes), left))
        return found

    def scratch(self) -> Scratch:
        """Memory for one block at a time."""
        heads, wide = self.heads, self.knobs.vectors * self.lanes
        span = min(self.knobs.span, heads.keys)
        padded = -(-heads.width // self.lanes) * self.lanes
        parts = -(-heads.keys // self.knobs.span)
        scope = "global"
        return Scratch(
            self.code.scratch("queries", (heads.depth * wide,), _DTYPE, scope),
            self.code.scratch("scores", (span * wide,), _DTYPE, scope),
            self.code.scratch("peaks", (wide,), _DTYPE, scope),
            self.code.scratch("totals", (wide,), _DTYPE, scope),
            self.code.scratch("factors", (wide,), _DTYPE, scope),
            self.code.scratch("mixed", (wide * padded,), _DTYPE, scope) if parts > 1 else None,
        )

    def emit(
        self, memory: Scratch, head: Sequence[Expr], first: Expr, vectors: int, rows: int
    ) -> None:
        """Rows `first`, ..., `first + rows - 1` of a head."""
        _Block(self, memory, list(head), first, vectors, rows).run()


@dataclass(frozen=True)
class Scratch:
    """Arrays of a block; `factors` rescale what was `mixed` under an older maximum."""

    queries: Buffer
    scores: Buffer
    peaks: Buffer
    totals: Buffer
    factors: Buffer
    mixed: Buffer | None


class _Block:
    def __init__(
        self,
        nest: Attend,
        memory: Scratch,
        head: list[Expr],
        first: Expr,
        vectors: int,
        rows: int,
    ) -> None:
        self.nest, self.code, self.heads, self.memory = nest, nest.code, nest.heads, memory
        self.head, self.first, self.vectors, self.rows = head, first, vectors, rows
        self.lanes = nest.lanes
        self.wide = vectors * self.lanes
        self.key_head = [self.code.bind(i, "head") for i in self.heads.key_head(head)]
        limit = as_index(self.heads.keys)
        if self.heads.causal:
            limit = self.code.bind(tirx.min(limit, first + rows), "limit")
        self.limit = limit

    def run(self) -> None:
        self._transpose_queries()
        self._each(lambda at: self._set(self.memory.peaks, at, float("-inf")))
        self._each(lambda at: self._set(self.memory.totals, at, 0.0))
        spans = _runs(self.heads.keys, self.nest.knobs.span)
        parts = sum(span.repeat for span in spans)
        for span in spans:
            reached = _count(self.limit, span) if self.heads.causal else span.repeat
            with self.code.loop("span", reached) as step:
                start = self.code.bind(step * span.size + span.first, "start")
                self._span(start, span.size, parts)
        if parts > 1:
            self._finish_mixed()

    def _span(self, start: Expr, size: int, parts: int) -> None:
        """Scores, weights and weighted sums of `size` keys from `start` on."""
        memory = self.memory
        if parts > 1:
            self._each(lambda at: self.code.store(memory.factors, at, memory.peaks[at[0]]))
        for run in _runs(size, self.nest.knobs.keys):
            tiles = _count(self.limit - start, run) if self.heads.causal else run.repeat
            with self.code.loop("tile", tiles) as tile:
                self._scores(start, self.code.bind(tile * run.size + run.first, "key"), run.size)
        seen: Expr | int = size
        if self.heads.causal:
            seen = self.code.bind(tirx.min(self.limit - start, size), "seen")
        if parts > 1:
            self._each(self._rescale)
        self._weights(seen)
        if parts == 1:
            self._each(self._invert)
        self._mix_all(start, seen)

    def _mix_all(self, start: Expr, seen: Expr | int) -> None:
        """The block's weighted sums of values, in panels of two vectors."""
        width = 2 * self.lanes
        whole, rest = divmod(self.heads.width, width)
        if whole > _PANELS:
            with self.code.loop("panel", whole) as panel:
                self._mix_rows(start, seen, panel * width, width)
        else:
            for panel in range(whole):
                self._mix_rows(start, seen, as_index(panel * width), width)
        if rest:
            self._mix_rows(start, seen, as_index(whole * width), rest)

    def _mix_rows(self, start: Expr, seen: Expr | int, panel: Expr, width: int) -> None:
        """A panel's weighted sums, one register tile after the other."""
        for run in _runs(self.rows, self.nest.rows_per_tile(-(-width // self.lanes))):
            for row in range(run.first, run.first + run.repeat * run.size, run.size):
                self._mix(start, seen, row, run.size, panel, width)

    def _each(self, body: Callable[[tuple[Expr]], None]) -> None:
        with self.code.unrolled("v", self.vectors) as v:
            with self.code.vector("lane", self.lanes) as lane:
                body((v * self.lanes + lane,))

    def _set(self, buffer: Buffer, at: tuple[Expr], value: float) -> None:
        self.code.store(buffer, at, f32(value))

    def _transpose_queries(self) -> None:
        """queries[column][row]; rows beyond the last repeat it."""
        code, lanes = self.code, self.lanes
        blocks, rest = divmod(self.heads.depth, lanes)
        if blocks:
            with code.loop("block", blocks) as block:
                for vector in range(self.vectors):
                    self._transpose_block(code.bind(block * lanes, "column"), vector * lanes)
        if rest:
            with code.loop("column", rest) as column, code.unrolled("row", self.wide) as row:
                column = column + blocks * lanes
                value = self.heads.query(self.head, self._row(row), column)
                code.store(self.memory.queries, (column * self.wide + row,), value)

    def _transpose_block(self, column: Expr, first: int) -> None:
        code, lanes = self.code, self.lanes
        rows = [code.scratch("row", (lanes,), _DTYPE) for _ in range(lanes)]
        for number, row in enumerate(rows):
            place = self._row(as_index(first + number))
            with code.vector("lane", lanes) as lane:
                code.store(row, (lane,), self.heads.query(self.head, place, column + lane))
        for number, queries in enumerate(transposed(code, rows)):
            with code.vector("lane", lanes) as lane:
                place = (column + number) * self.wide + (first + lane)
                code.store(self.memory.queries, (place,), queries[lane])

    def _row(self, row: Expr) -> Expr:
        last = row if self.rows == self.wide else tirx.min(row, self.rows - 1)
        return self.first + last

    def _scores(self, start: Expr, key: Expr, count: int) -> None:
        """Scores of `count` keys, and the maxima so far."""
        code, heads, memory, lanes = self.code, self.heads, self.memory, self.lanes
        sums = code.scratch("sums", (count, self.wide), _DTYPE)
        with code.unrolled("t", count) as t:
            self._each(lambda at: code.store(sums, (t, *at), f32(0.0)))
        keys = heads.key.span(code, [*self.key_head, start + key, 0])
        across, along = heads.key.steps[-2:]
        with code.loop("d", heads.depth) as d, code.unrolled("t", count) as t:
            with code.unrolled("v", self.vectors) as v, code.vector("lane", lanes) as lane:
                query = memory.queries[d * self.wide + (v * lanes + lane)]
                at = (t, v * lanes + lane)
                code.store(sums, at, sums[at] + keys[t * across + d * along] * query)
        peaks = code.scratch("peak", (self.wide,), _DTYPE)
        self._each(lambda at: code.store(peaks, at, memory.peaks[at]))
        for t in range(count):
            with code.unrolled("v", self.vectors) as v, code.vector("lane", lanes) as lane:
                row = v * lanes + lane
                score = self._masked(start + (key + t), row, sums[t, row])
                code.store(memory.scores, ((key + t) * self.wide + row,), score)
                peak = peaks[row]
                code.store(peaks, (row,), tirx.Select(score > peak, score, peak))
        self._each(lambda at: code.store(memory.peaks, at, peaks[at]))

    def _masked(self, key: Expr, row: Expr, score: Expr) -> Expr:
        if self.heads.score is not None:
            score = self.heads.score(self.head, self.first + row, key, score)
        if self.heads.causal:
            score = tirx.Select(key > self.first + row, f32(float("-inf")), score)
        return self.code.bind(score, "score")

    def _rescale(self, at: tuple[Expr]) -> None:
        """What was summed up under the older maximum counts less under the new one."""
        memory = self.memory
        distance = memory.factors[at] - self._base(memory.peaks[at])
        self.code.store(memory.factors, at, self._power(distance, hides=True))
        self.code.store(memory.totals, at, memory.totals[at] * memory.factors[at])

    def _weights(self, seen: Expr | int) -> None:
        """Scores become weights, and are added up."""
        code, memory, lanes = self.code, self.memory, self.lanes
        totals = code.scratch("total", (self.wide,), _DTYPE)
        peaks = code.scratch("peak", (self.wide,), _DTYPE)
        self._each(lambda at: code.store(totals, at, memory.totals[at]))
        self._each(lambda at: code.store(peaks, at, self._base(memory.peaks[at])))
        with code.loop("t", seen) as t:
            with code.unrolled("v", self.vectors) as v, code.vector("lane", lanes) as lane:
                row = v * lanes + lane
                place = (t * self.wide + row,)
                weight = self._power(memory.scores[place] - peaks[row], hides=self.heads.hides)
                code.store(memory.scores, place, weight)
                code.store(totals, (row,), totals[row] + memory.scores[place])
        self._each(lambda at: code.store(memory.totals, at, totals[at]))

    def _base(self, peak: Expr) -> Expr:
        """What scores are measured from: 0 for a row that has seen nothing."""
        if not self.heads.hides:
            return peak
        return tirx.Select(peak == f32(float("-inf")), f32(0.0), peak)

    def _power(self, x: Expr, *, hides: bool) -> Expr:
        """2^x for x <= 0, in a vector loop; nan stays nan, and minus infinity gives 0."""
        code = self.code
        x = code.bind(x, "x")
        limited = code.bind(tirx.Select(x < f32(_LOWEST), f32(_LOWEST), x), "limited")
        shifted = code.bind(opaque(limited + f32(ROUNDER)), "shifted")
        rest = code.bind(limited - (shifted - f32(ROUNDER)), "rest")
        value = code.bind(polynomial(rest, _EXP2), "value")
        exponent = tirx.shift_left(tirx.reinterpret("int32", shifted), tirx.const(23, "int32"))
        power = tirx.reinterpret(_DTYPE, tirx.reinterpret("int32", value) + exponent)
        return tirx.Select(x < f32(_LOWEST), f32(0.0), power) if hides else power

    def _invert(self, at: tuple[Expr]) -> None:
        """1 / total, and 0 for a row that saw nothing."""
        total = self.memory.totals[at]
        inverse = f32(1.0) / total
        if self.heads.hides:
            inverse = tirx.Select(total == f32(0.0), f32(0.0), inverse)
        self.code.store(self.memory.totals, at, inverse)

    def _mix(
        self, start: Expr, seen: Expr | int, row: int, rows: int, panel: Expr, width: int
    ) -> None:
        """Weighted sums of values for `rows` rows and `width` columns."""
        code, heads, memory, lanes = self.code, self.heads, self.memory, self.lanes
        tile = Tile(rows, width, lanes)
        sums = code.scratch("sums", (rows, tile.width), _DTYPE)
        padded = -(-heads.width // lanes) * lanes
        with code.unrolled("p", rows) as p, code.unrolled("v", tile.vectors) as v:
            with code.vector("lane", lanes) as lane:
                initial = f32(0.0)
                if memory.mixed is not None:
                    kept = memory.mixed[(row + p) * padded + (panel + v * lanes + lane)]
                    # Before the first span there is nothing, and the factor is 0 or nan.
                    initial = tirx.Select(start > 0, kept * memory.factors[row + p], f32(0.0))
                code.store(sums, (p, v * lanes + lane), initial)
        values = heads.value.window(code, [*self.key_head, start, panel])
        across = heads.value.steps[-2]
        with code.loop("t", seen) as t, code.unrolled("p", rows) as p:
            with code.unrolled("v", tile.vectors) as v, code.vector("lane", lanes) as lane:
                at = (p, v * lanes + lane)
                weight = memory.scores[t * self.wide + (row + p)]
                code.store(sums, at, sums[at] + weight * values(t * across + (v * lanes + lane)))
        if memory.mixed is not None:
            with code.unrolled("p", rows) as p, code.unrolled("v", tile.vectors) as v:
                with code.vector("lane", lanes) as lane:
                    place = (row + p) * padded + (panel + v * lanes + lane)
                    code.store(memory.mixed, (place,), sums[p, v * lanes + lane])
            return

        def finish(p: Expr, column: Coordinate, value: Expr) -> None:
            assert isinstance(column, Lane)
            place = Lane(panel + column.base, column.lane, column.lanes)
            value = value * memory.totals[row + p]
            heads.finish(self.head, self.first + (row + p), place, value)

        drain(code, tile, sums, finish, heads.epilogue_size)

    def _finish_mixed(self) -> None:
        """Divide by the sums of weights, when several spans were mixed."""
        code, heads, memory, lanes = self.code, self.heads, self.memory, self.lanes
        assert memory.mixed is not None
        self._each(self._invert)
        padded = -(-heads.width // lanes) * lanes
        mixed, totals = memory.mixed, memory.totals

        def finish(row: Expr, first: Expr, width: int) -> None:
            with code.vector("lane", width) as lane:
                value = mixed[row * padded + (first + lane)] * totals[row]
                heads.finish(self.head, self.first + row, Lane(first, lane, width), value)

        whole, rest = divmod(heads.width, lanes)
        with code.loop("row", self.rows) as row:
            if whole:
                with code.loop("v", whole) as v:
                    finish(row, v * lanes, lanes)
            for first, width in Tile(1, rest, lanes).pieces():
                finish(row, as_index(whole * lanes + first), width)


def _count(limit: Expr, run: _Run) -> Expr:
    """How many of a run's tiles begin below the limit."""
    reached = tirx.floordiv(limit - run.first + (run.size - 1), run.size)
    return tirx.max(0, tirx.min(reached, run.repeat))
