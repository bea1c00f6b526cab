"""The loops of a window that stays within its channel: depthwise convolutions and pools.

An item of work is a stretch of one output row. Its tiles keep `columns` positions of one vector of
channels in registers; the inputs of a row of taps are loaded once and used by every position that
reads them. All of it is bound by loads, so vectors run over channels, which lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.image import Image
from optc.backends.tvm.templates.loops import FORK_CYCLES, Code, as_index
from optc.backends.tvm.templates.places import Coordinate, Lane
from optc.backends.tvm.templates.taps import Phase, Run, axis_runs
from optc.ir.targets.target import Target

_UNROLLED = 192  # more steps than this per row of taps are a loop
_ITEMS_PER_CORE = 8
_WIDE = 7  # taps in a row


@dataclass(frozen=True, slots=True)
class SlideKnobs:
    """At most `columns` positions per tile."""

    columns: int


@dataclass(frozen=True)
class Fold:
    """What is done with the elements of a window; sums are kept in `dtype`.

    `step(sum, element, tap, channel)` adds an element, of the image's dtype, in a vector loop over
    channels; `tap` counts the window's elements. `finish(batch, place, channel, sum)` stores.
    """

    dtype: str
    start: Expr
    step: Callable[[Expr, Expr, Expr, Expr], Expr]
    finish: Callable[[Expr, Sequence[Expr], Coordinate, Expr], None]


def columns_for(target: Target, taps: int) -> tuple[int, ...]:
    """Positions that leave registers for a row of weights and inputs, the best guess first.

    Neighbours share most of a wide window: the more of them, the fewer loads. Measured on Zen 5:
    14 positions are 1.2 to 1.5 times as fast as 8 for seven taps a row, as fast for three.
    """
    if target.vector_registers < 32:
        return (6, 3, 4, 2)
    return (14, 8, 10, 6, 4) if taps >= _WIDE else (8, 14, 4, 6, 10)


@dataclass(frozen=True)
class Slide:
    """Emits the loops of one window."""

    code: Code
    shape: Geometry
    knobs: SlideKnobs
    image: Image
    fold: Fold
    target: Target
    lanes: int

    @property
    def channels(self) -> int:
        """Channels of input and output."""
        return self.shape.channels

    def run(self) -> None:
        """The whole loop nest."""
        shape, code = self.shape, self.code
        counts = [max(phase.count for phase in phases) for phases in shape.axes[:-1]]
        rows = shape.batch * math.prod(counts)
        cycles = shape.flops / self.lanes + 0.5 * shape.results * self.channels / self.lanes
        parallel = cycles > FORK_CYCLES and self.target.cores > 1
        whole = self.channels // self.lanes
        wanted = -(-_ITEMS_PER_CORE * self.target.cores // rows) if parallel else 1
        parts = max(1, min(wanted, whole))
        with code.shared("item", rows * parts, cycles) as item:
            part: Expr = as_index(0)
            if parts > 1:
                part = code.bind(tirx.floormod(item, parts), "part")
                item = code.bind(tirx.floordiv(item, parts), "row")
            digits: list[Expr] = []
            for count in reversed(counts):
                digits.insert(0, code.bind(tirx.floormod(item, count), "at"))
                item = code.bind(tirx.floordiv(item, count), "rest")
            self._outer(item, digits, [], part, parts)

    def _outer(
        self, batch: Expr, digits: list[Expr], chosen: list[Phase], part: Expr, parts: int
    ) -> None:
        axis = len(chosen)
        if axis == len(digits):
            self._row(batch, digits, chosen, part, parts)
            return
        phases = self.shape.axes[axis]
        most = max(phase.count for phase in phases)
        for phase in phases:
            within = [] if phase.count == most else [digits[axis] < phase.count]
            with when_all(self.code, within):
                self._outer(batch, digits, [*chosen, phase], part, parts)

    def _row(
        self, batch: Expr, digits: list[Expr], phases: list[Phase], part: Expr, parts: int
    ) -> None:
        code, lanes = self.code, self.lanes
        whole, rest = divmod(self.channels, lanes)
        bounds = [
            tuple(code.bind(bound, "bound") for bound in phase.bounds(digit))
            for phase, digit in zip(phases, digits, strict=True)
        ]
        row = _Row(self, batch, digits, phases, bounds)
        low = code.bind(tirx.floordiv(part * whole, parts), "low")
        high = code.bind(tirx.floordiv((part + 1) * whole, parts), "high")
        for phase, run in axis_runs(self.shape.axes[-1], self.knobs.columns):
            with code.loop("tile", run.repeat) as tile:
                left = code.bind(tile * run.size + run.first, "left")
                extent = whole if parts == 1 else high - low
                if whole:
                    with code.loop("c", extent) as c:
                        channel = code.bind((c + (low if parts > 1 else 0)) * lanes, "channel")
                        row.tile(phase, run, left, channel, lanes)
                with when_all(code, [part == parts - 1] if parts > 1 and rest else []):
                    at = whole * lanes
                    for width in powers_of_two(rest):
                        row.tile(phase, run, left, as_index(at), width)
                        at += width


@dataclass(frozen=True)
class _Row:
    """One output row: where it is, and the taps of each axis but the last."""

    nest: Slide
    batch: Expr
    digits: list[Expr]
    phases: list[Phase]
    bounds: list[tuple[Expr, ...]]

    def tile(self, phase: Phase, run: Run, left: Expr, channel: Expr, lanes: int) -> None:
        """`run.size` positions from `left` on, for `lanes` channels."""
        code, fold = self.nest.code, self.nest.fold
        sums = code.scratch("sums", (run.size, lanes), fold.dtype)
        with code.unrolled("p", run.size) as p, code.vector("lane", lanes) as lane:
            code.store(sums, (p, lane), fold.start)
        self._sweep([], [], _Tile(sums, phase, run, left, channel, lanes))
        place = [d * p.step + p.first for d, p in zip(self.digits, self.phases, strict=True)]
        with code.unrolled("p", run.size) as p, code.vector("lane", lanes) as lane:
            column = (left + p) * phase.step + phase.first
            fold.finish(self.batch, [*place, column], Lane(channel, lane, lanes), sums[p, lane])

    def _sweep(self, taps: list[Expr], place: list[Expr], tile: _Tile) -> None:
        axis = len(taps)
        if axis == len(self.phases):
            self._along(taps, place, tile)
            return
        phase, (low, high) = self.phases[axis], self.bounds[axis]
        extent = phase.taps if phase.never_outside else high - low
        with self.nest.code.loop("tap", extent) as step:
            tap = low + step
            at = self.digits[axis] * phase.move + (phase.offset + tap * phase.gap)
            element = phase.kernel + tap * phase.stride
            self._sweep([*taps, element], [*place, self.nest.code.bind(at, "at")], tile)

    def _along(self, taps: list[Expr], place: list[Expr], tile: _Tile) -> None:
        code, phase, image = self.nest.code, tile.phase, self.nest.image
        if not phase.taps:
            return
        column = tile.left * phase.move + phase.offset
        pixels = image.window(code, [self.batch, *place, column, tile.channel])
        flat = code.bind(_row_of(taps, self.nest.shape.kernel), "tap")
        first = 0
        for mask, same in groupby(tile.run.mask):
            count = len(list(same))
            inside = [position for position, reads in enumerate(mask) if reads]
            unrolled = count * len(inside) <= _UNROLLED
            start = code.unrolled if unrolled else code.loop
            with start("tap", count) as step:
                for position in inside:
                    self._step(tile, pixels, flat, first + step, position)
            first += count

    def _step(
        self, tile: _Tile, pixels: Callable[[Expr], Expr], flat: Expr, tap: Expr, position: int
    ) -> None:
        code, phase, sums = self.nest.code, tile.phase, tile.sums
        distance = (position * phase.move + tap * phase.gap) * self.nest.image.column
        element = phase.kernel + tap * phase.stride
        with code.vector("lane", tile.lanes) as lane:
            value = self.nest.fold.step(
                sums[position, lane], pixels(distance + lane), flat + element, tile.channel + lane
            )
            code.store(sums, (position, lane), value)


@dataclass(frozen=True)
class _Tile:
    sums: Buffer
    phase: Phase
    run: Run
    left: Expr
    channel: Expr
    lanes: int


def _row_of(taps: Sequence[Expr], kernel: Sequence[int]) -> Expr:
    """The number of the first element of a row of taps."""
    flat: Expr = as_index(0)
    for tap, size in zip(taps, kernel[:-1], strict=True):
        flat = flat * size + tap
    return flat * kernel[-1]


def when_all(code: Code, conditions: Sequence[Expr]) -> AbstractContextManager[None]:
    """A block that runs if all conditions hold; without any it always does."""
    if not conditions:
        return nullcontext()
    return code.when(conditions[0] if len(conditions) == 1 else tirx.all(*conditions))


def powers_of_two(total: int) -> list[int]:
    """`total` as falling powers of two."""
    return [1 << bit for bit in reversed(range(total.bit_length())) if total >> bit & 1]
