"""Which register tile, and which order of tiles, a product with constant weights takes.

Cycles of the slowest thread, by what binds: multiply-adds, what the second-level cache gives to the
first, and beside them what has to come from beyond the second-level cache. Measured on Zen 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from optc.backends.tvm.templates.dot import Dot
from optc.backends.tvm.templates.loops import FORK_CYCLES
from optc.backends.tvm.templates.products_apart import pass_cycles
from optc.backends.tvm.templates.tail import Tail, tail_of
from optc.backends.tvm.templates.tile import (
    block_of,
    edge_cycles,
    rows_without_conflict,
    tile_cycles,
    ways,
)
from optc.ir.targets.target import Target

LINE = 64  # bytes of a cache line
_LINE_CYCLES = 2.25  # for a line from the second-level cache
_FAR_LINE_CYCLES = 5.0  # from beyond it, when all cores ask
_KEPT = 0.75  # of the second-level cache, which keeps weights of up to so much
_EXPOSED = 0.35  # share of the time for far lines that multiply-adds do not hide
_LOAD = 0.25  # of a load beside a multiply-add, though two of each start in a cycle
_ADDED_UP = 2  # cycles to store and add up a vector, beside one for each part
_STREAMED = 1.5  # times what the second-level caches hold: weights of so much come from far away
_CUT_STREAMS = 1.1  # these bind, and each core then goes through all panels: measured on GPT-2
_WAKING = 650.0  # cycles until threads run, and one knows that they are done
_WORTH_WAKING = 450.0  # cycles to save for each of them
_CROWDED = 1.03  # all registers are taken: LLVM spills some now and then
_CONFLICT = 0.25  # of a pair of elements whose cache line is always gone
_DRAIN = 2.0  # cycles of a vector of sums that wait in memory
_BESIDE = 0.08  # of the time for lines from the second-level cache, beside passes
_CASES = 1.03  # strips of two heights are two cases in the code


@dataclass(frozen=True, slots=True)
class GemmKnobs:
    """`rows` x `vectors` registers per tile at most; `unroll` steps of K per loop iteration.

    Strips of rows are taken in `blocks`: all panels of weights meet one block before the next. One
    block reads each weight once, many keep the left side in a near cache. `parts` of the sums are
    computed apart, each by a core, and added up. With `apart`, results have two sums, of even and
    of odd elements along K, and so many vectors of them are added to at a time.
    """

    rows: int
    vectors: int
    unroll: int
    blocks: int = 1
    parts: int = 1
    apart: int = 0


@dataclass(frozen=True)
class GemmShape:
    """`m` rows by `n` columns; sums are `steps` words long, of which `line` make a cache line."""

    m: int
    n: int
    steps: int
    line: int
    dot: Dot
    target: Target
    lanes: int

    @property
    def left_row(self) -> int:
        """Bytes of a row of the left side."""
        return self.steps * self.dot.group * self.dot.left.bits // 8

    @property
    def apart(self) -> int:
        """Rows whose elements do not drive each other out of the first cache."""
        return rows_without_conflict(self.target, self.left_row)

    @property
    def middle(self) -> int:
        """Bytes of the second-level cache."""
        return self.target.cache("l2", 1 << 18)

    @property
    def room(self) -> int:
        """Registers for several sums of a result: weights and rows' elements need some, too."""
        return self.target.vector_registers // 2

    def tail(self, knobs: GemmKnobs) -> Tail | None:
        """How the last columns are taken, if apart along K."""
        if knobs.parts > 1:
            return None
        rows = self.m / self.strips(knobs)
        return tail_of(self.target, self.dot, self.n, self.steps, self.lanes, rows)

    @property
    def may_have_tail(self) -> bool:
        """Whether the last columns are ever taken apart."""
        tail = tail_of(self.target, self.dot, self.n, self.steps, self.lanes, self.m)
        return tail is not None

    def panels(self, knobs: GemmKnobs) -> int:
        """Panels of columns; a tail goes with the last one."""
        vectors = self.n // self.lanes if self.tail(knobs) else -(-self.n // self.lanes)
        return max(1, -(-vectors // knobs.vectors))

    def block(self, sums: int, unroll: int) -> int:
        """Steps of K that an iteration with so many results takes."""
        return block_of(unroll, ways(sums, self.steps, self.dot.latency, self.room))

    def strips(self, knobs: GemmKnobs) -> int:
        """Strips of rows."""
        return -(-self.m // knobs.rows)

    def panel_bytes(self, vectors: float) -> float:
        """Weights of so many vectors of columns."""
        return self.steps * vectors * self.lanes * LINE / self.line

    @property
    def weight_bytes(self) -> float:
        """All weights."""
        return self.panel_bytes(-(-self.n // self.lanes))

    def passes(self, knobs: GemmKnobs, vectors: float) -> int:
        """Over K, for a tile of so many vectors, of settings with sums apart."""
        return math.ceil(vectors * self.dot.sums / knobs.apart)

    def is_crowded(self, knobs: GemmKnobs) -> bool:
        """Whether weights that are loaded a step early have no registers of their own."""
        return not knobs.apart and (knobs.rows + 2) * knobs.vectors >= self.target.vector_registers

    def near_blocks(self, knobs: GemmKnobs) -> tuple[int, ...]:
        """Numbers of blocks worth a thought: one, and as few as let one fit the second cache.

        Threads then have rows of their own, which the next product reads again. Weights that do not
        stay in that cache are better read once.
        """
        room = self.middle / 2 - self.panel_bytes(knobs.vectors)
        if room < knobs.rows * self.left_row or self.weight_bytes > _KEPT * self.middle:
            return (1,)
        cores = self.target.cores
        fit = -(-math.ceil(self.m * self.left_row / room) // cores) * cores
        return tuple(dict.fromkeys([1, min(self.strips(knobs), max(1, fit))]))

    @property
    def is_worth_parts(self) -> bool:
        """Whether parts of sums may be better: threads share columns, and results stay near."""
        far = self.weight_bytes > _KEPT * self.middle
        return far and self.m > 1 and self._result_bytes <= self.middle / 2

    @property
    def _result_bytes(self) -> float:
        return self.m * self.n * self.dot.sum.bits / 8

    def cycles(self, knobs: GemmKnobs) -> float:
        """Estimated cycles until the last thread is done."""
        if self.is_shared(knobs):
            return self._shared(knobs) + _WAKING
        return self._work(knobs) + self._far_cycles(knobs, 1)

    def is_shared(self, knobs: GemmKnobs) -> bool:
        """Whether threads share the items: what is saved outweighs waking them.

        By weights that come from afar, as in a model; or, far beyond what waking takes, by nothing
        but the multiply-adds.
        """
        busy = self.m * -(-self.n // self.lanes) * self.steps * self.dot.cost / 2
        saved = busy * (1 - self._slowest_share(knobs))
        return self._shared(knobs) > FORK_CYCLES or saved > _WORTH_WAKING * self.target.cores

    def _shared(self, knobs: GemmKnobs) -> float:
        """Cycles of the slowest thread."""
        work = self._work(knobs) + self._far_cycles(knobs, self.target.cores)
        return work * self._slowest_share(knobs)

    def _work(self, knobs: GemmKnobs) -> float:
        """Cycles of all threads together, with weights no further than the second-level cache."""
        strips, vectors = self.strips(knobs), -(-self.n // self.lanes)
        rows = self.m / strips
        if self.dot.pairs:
            rows = 2.0 * math.ceil(rows / 2)
        tail = self.tail(knobs)
        full, rest = divmod(vectors - (tail is not None), knobs.vectors)
        work = full * self._strips_of_panel(knobs, rows, knobs.vectors)
        if rest:
            work += self._strips_of_panel(knobs, rows, rest)
        if tail:
            work += strips * self._tail_cycles(tail, rows)
        if self.m % strips:
            work *= _CASES
        if self.is_crowded(knobs):
            work *= _CROWDED
        if knobs.parts > 1:
            work += (knobs.parts + _ADDED_UP) * self.m * vectors
            if self.weight_bytes > _STREAMED * self.target.cores * self.middle:
                work *= _CUT_STREAMS
        return work

    def _strips_of_panel(self, knobs: GemmKnobs, rows: float, width: int) -> float:
        """Cycles of a panel of `width` vectors, all strips of it."""
        if knobs.apart:
            return self._passes_of_panel(knobs, rows, width)
        strips, dot = self.strips(knobs), self.dot
        fused = self.target.fma or bool(dot.intrinsic)
        steps = self.steps / knobs.parts
        tile = tile_cycles(rows, width, steps, dot.cost, fused, dot.latency, self.room)
        # Beside a short loop there is room to start the next tile: no more than a cycle a step.
        tile -= max(0.0, edge_cycles(rows, width) - steps)
        work = tile * strips * knobs.parts
        # The second-level cache gives a panel and the rows for the first strip, and for every strip
        # anew when the first cache does not keep them; nothing when that keeps all weights.
        near = self.target.cache("l1", 1 << 15)
        share = 1.0
        if self.weight_bytes < near:
            share = 0.0
        elif 2 * self.panel_bytes(knobs.vectors) <= near:
            share = 1 / strips
        lines = (width * self.lanes + rows) / self.line
        streamed = max(work, _LINE_CYCLES * lines * self.steps * strips)
        work += share * (streamed - work)
        if knobs.rows > self.apart:
            # Every element of a row is fetched again, with its cache line, at every step.
            work += rows * self.steps * strips
        return work * (1 + _LOAD * (rows + width) / (rows * width))

    def _passes_of_panel(self, knobs: GemmKnobs, rows: float, width: int) -> float:
        """The same with sums apart: rows are read again for each pass, from the cache they fit."""
        strips, passes = self.strips(knobs), self.passes(knobs, width)
        steps = self.steps / knobs.parts
        tile = passes * pass_cycles(rows, knobs.apart, steps) + _DRAIN * rows * width
        if knobs.rows > self.apart:
            tile += _CONFLICT * rows * steps * passes
        lines = width * self.lanes * steps / self.line
        near = rows * steps * LINE / self.line <= _KEPT * self.target.cache("l1", 1 << 15)
        lines += rows * steps / self.line * (1 if near else passes)
        return (tile + _BESIDE * _LINE_CYCLES * lines) * strips * knobs.parts

    def _tail_cycles(self, tail: Tail, rows: float) -> float:
        """Cycles of a strip's last columns."""
        blocks, rest = tail.split(self.steps)
        cost, latency = self.dot.cost, self.dot.latency
        strips = tail.strips(rows, self.steps)
        busy = strips * tile_cycles(rows / strips, 1, blocks, cost, latency=latency, room=self.room)
        return busy + rows * (rest * cost / 2 + tail.group.bit_length() - 1)

    def _far_cycles(self, knobs: GemmKnobs, cores: int) -> float:
        """Cycles that wait for what comes from beyond the second-level cache, for all `cores`."""
        return _EXPOSED * _FAR_LINE_CYCLES * self._far_bytes(knobs, cores) / LINE

    def _far_bytes(self, knobs: GemmKnobs, cores: int) -> float:
        blocks, left = knobs.blocks, float(self.m * self.left_row)
        weights = self.weight_bytes * (blocks if self.weight_bytes > _KEPT * self.middle else 1)
        if knobs.parts > 1:
            return weights + left + (knobs.parts - 1) * self._result_bytes
        if left / blocks + self.panel_bytes(knobs.vectors) > 0.75 * self.middle:
            return weights + left * -(-self.n // (knobs.vectors * self.lanes))
        return weights + left * (cores if blocks == 1 else 1)

    def _slowest_share(self, knobs: GemmKnobs) -> float:
        """The part of the work that one thread gets at most: items are dealt in equal stretches."""
        strips, cores = self.strips(knobs), self.target.cores
        panels = self.panels(knobs)
        items = panels * strips * knobs.parts
        stretch = -(-items // cores)
        if knobs.blocks > 1 or knobs.parts > 1:
            return stretch / items
        wide = (panels - 1) * strips  # items of full panels, which come first
        last = -(-self.n // self.lanes) - (panels - 1) * knobs.vectors + 0.0
        if tail := self.tail(knobs):
            last -= 1 - sum(tail.split(self.steps)) / self.steps
        most = max(
            _within(start, start + stretch, wide) * knobs.vectors
            + _within(start - wide, start - wide + stretch, items - wide) * last
            for start in range(0, items, stretch)
        )
        return most / (strips * ((panels - 1) * knobs.vectors + last))


def _within(low: int, high: int, end: int) -> int:
    """How many of low, ..., high - 1 are in 0, ..., end - 1."""
    return max(0, min(high, end) - max(low, 0))
