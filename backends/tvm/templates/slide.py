"""The loops of a window that stays within its channel: depthwise convolutions and pools.

An item of work is a strip of output rows, or some channels of one. In it, `block` vectors of
channels are swept over all tiles, so that the rows and columns that tiles share come from the
first-level cache; the next vectors follow. A tile keeps `rows` x `columns` positions of one vector
in registers (`slide_tile`). All of it is bound by loads, so vectors run over channels, which lie
side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.image import Image
from optc.backends.tvm.templates.loops import FORK_CYCLES, Code, as_index
from optc.backends.tvm.templates.nest import digits_of
from optc.backends.tvm.templates.slide_knobs import WRITTEN_OUT, Band, Share, SlideKnobs, bands
from optc.backends.tvm.templates.slide_tile import Fold, SlideTile, Window
from optc.backends.tvm.templates.taps import Phase, axis_runs
from optc.ir.targets.target import Target

_STRIPS_PER_CORE = 4  # for pools of other sizes; what strips share is read again
_TALL = 4  # tiles of a strip that make up for it


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
    written_out: int = WRITTEN_OUT

    @property
    def channels(self) -> int:
        """Channels of input and output."""
        return self.shape.channels

    @cached_property
    def bands(self) -> tuple[Band, ...]:
        """The rows of tiles; a window along one axis has none."""
        shape, knobs = self.shape, self.knobs
        if len(shape.axes) == 1:
            return ()
        columns = sum(run.size for _, run in axis_runs(shape.axes[-1], knobs.columns))
        body = knobs.rows * math.prod(shape.kernel[-2:]) * columns
        return bands(shape.axes[-2], knobs.rows, self.written_out // body)

    def run(self) -> None:
        """The whole loop nest."""
        shape = self.shape
        outer = [max(phase.count for phase in phases) for phases in shape.axes[:-2]]
        cycles = shape.flops / self.lanes + 0.5 * shape.results * self.channels / self.lanes
        parallel = cycles > FORK_CYCLES and self.target.cores > 1
        strips, parts = self._shares(shape.batch * math.prod(outer)) if parallel else (1, 1)
        radices = [shape.batch, *outer, strips, parts]
        with self.code.shared("item", math.prod(radices), cycles) as item:
            *digits, strip, part = digits_of(self.code, item, radices)
            strip = self._upwards(strip, strips)
            self._outer(digits, [], _Share(strip, strips, part, parts))

    def _shares(self, images: int) -> tuple[int, int]:
        """Strips and parts of the channels."""
        tiles, cores = self._tiles, self.target.cores
        if self.knobs.share is Share.CHANNELS:
            return 1, max(1, min(cores, self.channels // self.lanes))
        wanted = -(-cores // images)
        strips = min(tiles, wanted * max(1, min(_STRIPS_PER_CORE, tiles // (wanted * _TALL))))
        return max(1, strips), 1

    def _upwards(self, strip: Expr, strips: int) -> Expr:
        """A core's strips from below, as the rows in them are done."""
        each = strips // self.target.cores
        if each < 2 or strips % self.target.cores:
            return strip
        first = tirx.floordiv(strip, each) * each
        return self.code.bind(first + (each - 1) - tirx.floormod(strip, each), "strip")

    @property
    def _tiles(self) -> int:
        return sum(band.repeat for band in self.bands)

    def _outer(self, digits: list[Expr], chosen: list[Phase], share: _Share) -> None:
        axis = len(chosen)
        if axis == len(digits) - 1:
            kernel, (batch, *places) = self.shape.kernel, digits
            window = Window(self.code, self.image, kernel, self.fold, batch, places, chosen)
            self._blocks(window, share)
            return
        phases = self.shape.axes[axis]
        most = max(phase.count for phase in phases)
        for phase in phases:
            within = [] if phase.count == most else [digits[axis + 1] < phase.count]
            with when_all(self.code, within):
                self._outer(digits, [*chosen, phase], share)

    def _blocks(self, window: Window, share: _Share) -> None:
        code, lanes = self.code, self.lanes
        whole, rest = divmod(self.channels, lanes)
        parts = share.parts
        if whole:
            blocks = max(1, round(whole / parts / self.knobs.block))
            with code.loop("block", blocks) as block:
                number = share.part * blocks + block
                low = code.bind(tirx.floordiv(number * whole, parts * blocks), "low")
                high = code.bind(tirx.floordiv((number + 1) * whole, parts * blocks), "high")
                even = whole % (parts * blocks) == 0
                extent = whole // (parts * blocks) if even else high - low
                self._strip(window, share, low, extent, lanes)
        with when_all(code, [share.part == parts - 1] if parts > 1 and rest else []):
            at = whole * lanes
            single = replace(self, knobs=replace(self.knobs, rows=1), written_out=0)
            for width in powers_of_two(rest):
                single._strip(window, share, as_index(at), 0, width)
                at += width

    def _strip(
        self, window: Window, share: _Share, low: Expr, extent: Expr | int, lanes: int
    ) -> None:
        """All tiles of a strip, for `extent` vectors from `low` on, or `lanes` channels at it."""
        if not self.bands:
            self._columns(window, low, extent, lanes)
            return
        code, tiles = self.code, self._tiles
        first = code.bind(tirx.floordiv(share.strip * tiles, share.strips), "first")
        last = code.bind(tirx.floordiv((share.strip + 1) * tiles, share.strips), "last")
        with code.loop("row", tiles if share.strips == 1 else last - first) as step:
            # Upwards: what the kernel before wrote last, the lower rows, is still in the cache.
            row = code.bind(last - 1 - step, "row")
            at = 0
            for band in self.bands:
                with self._between(row, at, at + band.repeat, tiles):
                    top = code.bind((row - at) * band.size + band.first, "top")
                    self._band(window, band, top, low, extent, lanes)
                at += band.repeat

    def _band(
        self, window: Window, band: Band, top: Expr, low: Expr, extent: Expr | int, lanes: int
    ) -> None:
        if band.mask is not None:
            self._columns(replace(window, band=band, top=top), low, extent, lanes)
            return
        with self.code.loop("r", band.size) as r:
            row = self.code.bind(top + r, "row")
            phases, digits = [*window.phases, band.phase], [*window.digits, row]
            inner = replace(window, phases=phases, digits=digits)
            self._columns(inner, low, extent, lanes)

    def _columns(self, window: Window, low: Expr, extent: Expr | int, lanes: int) -> None:
        code = self.code
        bounded = window.bounded()
        for phase, run in axis_runs(self.shape.axes[-1], self.knobs.columns):
            with code.loop("tile", run.repeat) as tile:
                left = code.bind(tile * run.size + run.first, "left")
                if lanes < self.lanes:
                    SlideTile(bounded, phase, run, left, low, lanes).emit()
                    continue
                with code.loop("c", extent) as c:
                    channel = code.bind((low + c) * lanes, "channel")
                    SlideTile(bounded, phase, run, left, channel, lanes).emit()

    @contextmanager
    def _between(self, value: Expr, low: int, high: int, extent: int) -> Iterator[None]:
        conditions = [value >= low] if low else []
        conditions += [value < high] if high < extent else []
        with when_all(self.code, conditions):
            yield


@dataclass(frozen=True, slots=True)
class _Share:
    """Which strip of rows and which part of the channels."""

    strip: Expr
    strips: int
    part: Expr
    parts: int


def when_all(code: Code, conditions: Sequence[Expr]) -> AbstractContextManager[None]:
    """A block that runs if all conditions hold; without any it always does."""
    if not conditions:
        return nullcontext()
    return code.when(conditions[0] if len(conditions) == 1 else tirx.all(*conditions))


def powers_of_two(total: int) -> list[int]:
    """`total` as falling powers of two."""
    return [1 << bit for bit in reversed(range(total.bit_length())) if total >> bit & 1]
