"""The register tile of a window that stays within its channel.

The inputs of a row that the tile reads are loaded once and used by every position that reads them;
a tap at a time, so that weights need one register each, or, where positions move in steps and read
more inputs than that leaves registers for, an input at a time. Rows of a band are written out, and
taps outside the image are known and left out; other axes have loops with bounds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.image import Image
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.places import Coordinate, Lane
from optc.backends.tvm.templates.slide_knobs import Band
from optc.backends.tvm.templates.taps import Phase, Run, stretches

_UNROLLED = 192  # more steps than this per row of taps are a loop


@dataclass(frozen=True)
class Fold:
    """What is done with the elements of a window; sums are kept in `dtype`.

    `step(sum, element, tap, channel)` adds an element, of the image's dtype, in a vector loop over
    channels; `tap` counts the window's elements. `finish(batch, place, channel, sum)` stores. Of a
    whole vector the channel's base is a multiple of its lanes. `one_by_one`: where positions move
    in steps, inputs are taken one by one, which suits steps of one instruction.
    """

    dtype: str
    start: Expr
    step: Callable[[Expr, Expr, Expr, Lane], Expr]
    finish: Callable[[Expr, Sequence[Expr], Coordinate, Expr], None]
    one_by_one: bool = False


@dataclass(frozen=True)
class Window:
    """Where tiles are along the axes but the last: single places with bounds, then a band."""

    code: Code
    image: Image
    kernel: Sequence[int]
    fold: Fold
    batch: Expr
    digits: Sequence[Expr]
    phases: Sequence[Phase]
    band: Band | None = None
    top: Expr = field(default_factory=lambda: as_index(0))
    bounds: tuple[tuple[Expr, ...], ...] = ()

    def bounded(self) -> Window:
        """With the taps of each axis that are inside, computed here."""
        bounds = tuple(
            tuple(self.code.bind(bound, "bound") for bound in phase.bounds(digit))
            for phase, digit in zip(self.phases, self.digits, strict=True)
        )
        return replace(self, bounds=bounds)


class SlideTile:
    """`run.size` columns from `left` on, of all rows of the band, for `lanes` channels."""

    def __init__(
        self, window: Window, phase: Phase, run: Run, left: Expr, channel: Expr, lanes: int
    ) -> None:
        self.window, self.code, self.fold = window, window.code, window.fold
        self.phase, self.run, self.left = phase, run, left
        self.channel, self.lanes = channel, lanes
        self.height = window.band.size if window.band else 1
        shape = (self.height * run.size, lanes)
        self.sums: Buffer = self.code.scratch("sums", shape, self.fold.dtype)

    def emit(self) -> None:
        """Clear, sum, finish."""
        code, fold = self.code, self.fold
        with code.unrolled("p", self.height * self.run.size) as p:
            with code.vector("lane", self.lanes) as lane:
                code.store(self.sums, (p, lane), fold.start)
        self._sweep([], [])
        for row in range(self.height):
            with code.unrolled("p", self.run.size) as p, code.vector("lane", self.lanes) as lane:
                place = [*self._place(row), (self.left + p) * self.phase.step + self.phase.first]
                total = self.sums[row * self.run.size + p, lane]
                fold.finish(self.window.batch, place, Lane(self.channel, lane, self.lanes), total)

    def _place(self, row: int) -> list[Expr]:
        window, band = self.window, self.window.band
        pairs = zip(window.digits, window.phases, strict=True)
        place = [digit * phase.step + phase.first for digit, phase in pairs]
        if band is not None:
            place.append((window.top + row) * band.phase.step + band.phase.first)
        return place

    def _sweep(self, taps: list[Expr], place: list[Expr]) -> None:
        """Loop over the taps of single places."""
        window, axis = self.window, len(taps)
        if axis == len(window.phases):
            if self.phase.taps:
                self._rows(taps, place)
            return
        phase, (low, high) = window.phases[axis], window.bounds[axis]
        extent = phase.taps if phase.never_outside else high - low
        with self.code.loop("tap", extent) as step:
            tap = low + step
            at = window.digits[axis] * phase.move + (phase.offset + tap * phase.gap)
            element = phase.kernel + tap * phase.stride
            self._sweep([*taps, element], [*place, self.code.bind(at, "at")])

    def _rows(self, taps: list[Expr], place: list[Expr]) -> None:
        """Every row that the band reads, with the rows of taps that meet it."""
        band = self.window.band
        if band is None or band.mask is None:
            self._across([(0, taps)], self._pixels(place), 0)
            return
        phase = band.phase
        met: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for tap, reads in enumerate(band.mask):
            for row in (row for row, inside in enumerate(reads) if inside):
                met[row * phase.move + tap * phase.gap].append((row, tap))
        if not met:
            return
        nearest = min(met)
        at = self.window.top * phase.move + (phase.offset + nearest)
        pixels = self._pixels([*place, at])
        for distance in sorted(met):
            step = (distance - nearest) * self.window.image.steps[-3]
            elements = [(row, phase.kernel + tap * phase.stride) for row, tap in met[distance]]
            rows = [(row, [*taps, as_index(element)]) for row, element in elements]
            self._across(rows, pixels, step)

    def _pixels(self, place: list[Expr]) -> Callable[[Expr], Expr]:
        column = self.left * self.phase.move + self.phase.offset
        return self.window.image.window(
            self.code, [self.window.batch, *place, column, self.channel]
        )

    def _across(
        self, rows: Sequence[tuple[int, list[Expr]]], pixels: Callable[[Expr], Expr], beyond: int
    ) -> None:
        """All rows of positions, each with its row of taps, that meet a row of inputs."""
        met: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for tap, mask in enumerate(self.run.mask):
            for position in (position for position, inside in enumerate(mask) if inside):
                met[position * self.phase.move + tap * self.phase.gap].append((tap, position))
        one_by_one = self.fold.one_by_one and self.phase.move > 1
        if not one_by_one or sum(map(len, met.values())) > _UNROLLED:
            for row, taps in rows:
                self._along(taps, pixels, beyond, row)
            return
        # Positions that move in steps meet more inputs than there are registers left: one by one.
        kernel = self.window.kernel
        flats = [(row, self.code.bind(_row_of(taps, kernel), "tap")) for row, taps in rows]
        for column in sorted(met):
            for row, flat in flats:
                for tap, position in met[column]:
                    at = as_index(position)
                    self._step(pixels, beyond, flat, as_index(tap), row, at)

    def _along(
        self, taps: list[Expr], pixels: Callable[[Expr], Expr], beyond: int, row: int
    ) -> None:
        """A row of taps for a row of positions."""
        code = self.code
        flat = code.bind(_row_of(taps, self.window.kernel), "tap")
        first = 0
        for mask, same in groupby(self.run.mask):
            count = len(list(same))
            inside = [position for position, reads in enumerate(mask) if reads]
            unrolled = count * len(inside) <= _UNROLLED
            start = code.unrolled if unrolled else code.loop
            with start("tap", count) as step:
                for at, many in stretches(inside):
                    with code.unrolled("p", many) as p:
                        self._step(pixels, beyond, flat, first + step, row, at + p)
            first += count

    def _step(
        self,
        pixels: Callable[[Expr], Expr],
        beyond: int,
        flat: Expr,
        tap: Expr,
        row: int,
        position: Expr,
    ) -> None:
        phase, sums = self.phase, self.sums
        distance = (position * phase.move + tap * phase.gap) * self.window.image.column + beyond
        element = flat + (phase.kernel + tap * phase.stride)
        place = row * self.run.size + position
        with self.code.vector("lane", self.lanes) as lane:
            channel = Lane(self.channel, lane, self.lanes)
            value = self.fold.step(sums[place, lane], pixels(distance + lane), element, channel)
            self.code.store(sums, (place, lane), value)


def _row_of(taps: Sequence[Expr], kernel: Sequence[int]) -> Expr:
    """The number of the first element of a row of taps."""
    flat: Expr = as_index(0)
    for tap, size in zip(taps, kernel[:-1], strict=True):
        flat = flat * size + tap
    return tirx.convert(flat * kernel[-1])
