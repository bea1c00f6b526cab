"""The loops of a direct convolution: a register tile that slides over the output.

An item of work is one tile: `rows` x `columns` positions times a panel of output channels, whose
sums stay in registers over the whole window and all input channels. A weight vector is used once
per position, an input element once per vector of channels. The weights of a panel,
`[taps][channels][width]`, stream from the second-level cache.

Sums `apart` (see `dot`) are twice as many, of even and of odd input channels; they are joined when
the window is done. Of 24 output channels they fill three vectors, where others would need four.

Nothing is padded and no image-to-column matrix is made: see `taps` for how borders are treated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.apart import Apart
from optc.backends.tvm.templates.conv_knobs import ConvKnobs, Order
from optc.backends.tvm.templates.dot import Dot
from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.image import Image, Span, pointer
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import digits_of
from optc.backends.tvm.templates.places import Coordinate, Lane
from optc.backends.tvm.templates.taps import Phase, Run, axis_runs, stretches
from optc.backends.tvm.templates.tile import Tile, drain

# So few tiles share a panel that waiting for the next one to arrive would show.
_FEW_TILES = 32


@dataclass(frozen=True)
class Access:
    """How the loops reach memory, and how `dot` multiplies what they find there.

    `weights` are packed, with a row that sums start at where `dot` has an origin; `group_step` is
    from a group's channels in the image to the next. `finish(batch, place, channel, value)` stores
    a result, inside a vector loop.
    """

    dot: Dot
    image: Image
    group_step: int
    weights: Buffer
    finish: Callable[[Expr, Sequence[Expr], Coordinate, Expr], None]
    epilogue_size: int
    apart: Apart

    @property
    def dtype(self) -> str:
        """What sums are kept in."""
        return tvm_dtype(self.dot.sum)

    def joined(self, channels: int) -> bool:
        """Whether channel c + `channels` of a place is channel c of the next place."""
        image = self.image
        return image.channel == image.group and image.column == channels * image.channel


@dataclass(frozen=True)
class Convolve:
    """Emits the loops of one convolution."""

    code: Code
    shape: Geometry
    knobs: ConvKnobs
    access: Access
    lanes: int
    cycles: float  # of the whole work: little is not worth waking threads for

    @property
    def width(self) -> int:
        """Channels of a panel."""
        return self.knobs.vectors * self.lanes

    @property
    def first(self) -> int:
        """Rows of weights before the first, for what sums start at."""
        return int(self.access.dot.origin != 0)

    @property
    def padded(self) -> int:
        """Output channels of a group in whole vectors."""
        return -(-self.shape.outputs // self.lanes) * self.lanes

    @property
    def tiles(self) -> int:
        """Tiles along the last axis."""
        return sum(run.repeat for _, run in axis_runs(self.shape.axes[-1], self.knobs.columns))

    def run(self) -> None:
        """The whole loop nest."""
        panels = -(-self.shape.outputs // self.width)
        image, weights = [self.shape.batch, *self._row_counts()], [self.shape.groups, panels]
        by_weights = self.knobs.order is Order.WEIGHTS
        outer = [*weights, *image] if by_weights else [*image, *weights]
        # One tile per item: in a loop over tiles, biases would be loaded before it and kept in
        # registers that the sums need.
        with self.code.shared("item", math.prod(outer) * self.tiles, self.cycles) as item:
            number: Expr = as_index(0)
            if by_weights:
                number = self.code.bind(tirx.floormod(item, self.tiles_per_panel), "number")
            *digits, column = digits_of(self.code, item, [*outer, self.tiles])
            if by_weights:
                (group, panel), (batch, *rows) = digits[:2], digits[2:]
            else:
                (batch, *rows), (group, panel) = digits[:-2], digits[-2:]
            full, left = divmod(self.shape.outputs, self.width)
            widths = (full, self.width), (panels - full, left)
            for columns, here in self.code.cases(panel < full, *widths):
                with here:
                    place = _Panel(self, group, panel, columns, batch, column, number)
                    place.over_rows(rows)

    @property
    def tiles_per_panel(self) -> int:
        """Tiles that use a panel before the next one is due."""
        return self.shape.batch * math.prod(self._row_counts()) * self.tiles

    def _row_counts(self) -> list[int]:
        """Items along each axis but the last."""
        axes = self.shape.axes[:-1]
        counts = [max(phase.count for phase in phases) for phases in axes]
        if self.knobs.rows > 1:
            counts[-1] = sum(run.repeat for _, run in axis_runs(axes[-1], self.knobs.rows))
        return counts


@dataclass(frozen=True)
class _Rows:
    """Where a tile is along the axes but the last: taps loop freely (Phase) or by cases (Run)."""

    phase: Phase
    start: Expr  # output of the phase
    run: Run | None


class _Panel:
    """One panel of channels over one stretch of rows."""

    def __init__(
        self,
        nest: Convolve,
        group: Expr,
        panel: Expr,
        columns: int,
        batch: Expr,
        column: Expr,
        number: Expr,
    ) -> None:
        self.nest, self.code, self.shape = nest, nest.code, nest.shape
        self.number = number
        self.batch, self.column = batch, column
        self.columns = columns
        rows = self.shape.taps * self.shape.inputs + nest.first
        start = (group * nest.padded + panel * nest.width) * rows
        self.weights = self.code.bind(start, "start")
        self.group = group
        self.output = self.code.bind(group * self.shape.outputs + panel * nest.width, "output")

    def over_rows(self, rows: Sequence[Expr]) -> None:
        """Every combination of phases of the axes but the last."""
        self._outer(list(rows), [])

    def _outer(self, rows: list[Expr], chosen: list[_Rows]) -> None:
        axis = len(chosen)
        if axis == len(self.shape.axes) - 1:
            self._columns(chosen)
            return
        phases, row = self.shape.axes[axis], rows[axis]
        if axis == len(self.shape.axes) - 2 and self.nest.knobs.rows > 1:
            at = 0
            cases = axis_runs(phases, self.nest.knobs.rows)
            for phase, run in cases:
                with self._between(row, at, at + run.repeat, sum(r.repeat for _, r in cases)):
                    start = self.code.bind((row - at) * run.size + run.first, "top")
                    self._outer(rows, [*chosen, _Rows(phase, start, run)])
                at += run.repeat
            return
        most = max(phase.count for phase in phases)
        for phase in phases:
            with self._between(row, 0, phase.count, most):
                self._outer(rows, [*chosen, _Rows(phase, row, None)])

    @contextmanager
    def _between(self, value: Expr, low: int, high: int, extent: int) -> Iterator[None]:
        conditions = [value >= low] if low else []
        conditions += [value < high] if high < extent else []
        if not conditions:
            yield
            return
        with self.code.when(tirx.all(*conditions) if len(conditions) > 1 else conditions[0]):
            yield

    def _columns(self, rows: list[_Rows]) -> None:
        """The tile, by where in its row it is."""
        bounds = [self._bounds(row) for row in rows]
        at, tiles = 0, self.nest.tiles
        for phase, run in axis_runs(self.shape.axes[-1], self.nest.knobs.columns):
            with self._between(self.column, at, at + run.repeat, tiles):
                left = self.code.bind((self.column - at) * run.size + run.first, "left")
                _Tile(self, rows, bounds, phase, run, left).emit()
            at += run.repeat

    def _bounds(self, row: _Rows) -> tuple[Expr, Expr]:
        low, high = row.phase.bounds(row.start)
        return self.code.bind(low, "low"), self.code.bind(high, "high")


class _Tile:
    """One register tile."""

    def __init__(
        self,
        panel: _Panel,
        rows: list[_Rows],
        bounds: list[tuple[Expr, Expr]],
        phase: Phase,
        run: Run,
        left: Expr,
    ) -> None:
        self.panel, self.code, self.shape = panel, panel.code, panel.shape
        self.nest, self.access = panel.nest, panel.nest.access
        self.rows, self.bounds, self.phase, self.run, self.left = rows, bounds, phase, run, left
        self.height = rows[-1].run.size if rows and rows[-1].run else 1
        positions = self.height * run.size
        self.tile = Tile(positions, panel.columns, self.nest.lanes)
        width = self.tile.width * self.access.dot.sums
        self.sums: Buffer = self.code.scratch("sums", (positions, width), self.access.dtype)

    def emit(self) -> None:
        """Clear, sum, finish."""
        lanes = self.nest.lanes * self.access.dot.sums
        with self.code.unrolled("p", self.tile.rows) as p:
            with self.code.unrolled("v", self.tile.vectors) as v:
                with self.code.vector("lane", lanes) as lane:
                    column = v * lanes + lane
                    self.code.store(self.sums, (p, column), self._start(column))
        self._sweep([], [], list(range(self.height)))
        tile, sums, size = self.tile, self.sums, self.access.epilogue_size
        if self.access.dot.apart:
            size //= 2 if tile.vectors == 1 else 1  # its results are half vectors
            tile = Tile(tile.rows, tile.columns, lanes)
            sums = self.access.apart.joined(self.code, sums, lanes)
        drain(self.code, tile, sums, self._finish, size)

    def _start(self, column: Expr) -> Expr:
        if not self.nest.first:
            return tirx.const(0, self.access.dtype)
        return self.access.weights[self.panel.weights + column]

    def _sweep(self, kernel: list[Expr], place: list[Expr], tops: list[int]) -> None:
        """Loop over the taps of the axes but the last; `place` is that of position (0, 0)."""
        axis = len(kernel)
        if axis == len(self.rows):
            self._along(kernel, place, tops)
            return
        row = self.rows[axis]
        phase = row.phase

        def inner(tap: Expr, tops: list[int]) -> None:
            at = row.start * phase.move + (phase.offset + tap * phase.gap)
            element = phase.kernel + tap * phase.stride
            self._sweep([*kernel, element], [*place, self.code.bind(at, "at")], tops)

        if row.run is None:
            low, high = self.bounds[axis]
            extent = phase.taps if phase.never_outside else high - low
            with self.code.loop("tap", extent) as step:
                inner(low + step, tops)
        elif row.run.whole:
            with self.code.loop("tap", phase.taps) as tap:
                inner(tap, tops)
        else:
            for tap, mask in enumerate(row.run.mask):
                inside = [top for top in tops if mask[top]]
                if inside:
                    inner(as_index(tap), inside)

    def _along(self, kernel: list[Expr], place: list[Expr], tops: list[int]) -> None:
        """The taps of the last axis, neighbours that the same positions read together."""
        phase, channels = self.phase, self.shape.inputs
        start = self.code.bind(self.left * phase.move + phase.offset, "column")
        in_order = phase.gap == phase.stride == 1 and self.access.joined(channels)
        first = 0
        for mask, same in groupby(self.run.mask):
            count = len(list(same))
            inside = [position for position, reads in enumerate(mask) if reads]
            steps, length = (1, count * channels) if in_order else (count, channels)
            if inside:
                with self.code.loop("tap", steps) as step:
                    tap = first + step
                    column = self.code.bind(start + tap * phase.gap, "column")
                    element = phase.kernel + tap * phase.stride
                    self._sum(length, kernel, element, [*place, column], tops, inside)
            first += count

    def _sum(
        self,
        extent: int,
        kernel: list[Expr],
        element: Expr,
        place: list[Expr],
        tops: list[int],
        inside: list[int],
    ) -> None:
        """Add `extent` products to the positions `tops` x `inside`."""
        flat: Expr = as_index(0)
        for tap, size in zip([*kernel, element], self.shape.kernel, strict=True):
            flat = flat * size + tap
        offset = (flat * self.shape.inputs + self.nest.first) * self.tile.width
        weights = pointer(self.code, self.access.weights, [self.panel.weights + offset])
        beyond = self.panel.group * self.access.group_step
        pixels = self.access.image.span(self.code, [self.panel.batch, *place, 0], beyond)
        together = stretches(inside)
        unroll = min(self.nest.knobs.unroll, extent)
        blocks, rest = divmod(extent, unroll)
        ahead = self._ahead(offset)

        def step(k: Expr) -> None:
            if ahead is not None:
                self.code.add(tirx.Evaluate(ahead(k)))
            for top in tops:
                for first, count in together:
                    self._products(top, first, count, k, weights, pixels)

        if blocks:
            with self.code.loop("k", blocks) as k, self.code.unrolled("u", unroll) as u:
                step(k * unroll + u)
        if rest:
            with self.code.unrolled("u", rest) as u:
                step(blocks * unroll + u)

    def _ahead(self, offset: Expr) -> Callable[[Expr], Expr] | None:
        """Loads this tile's share of the next panel's weights into the second-level cache."""
        nest, panel = self.nest, self.panel
        if nest.knobs.order is not Order.WEIGHTS or not 1 < nest.tiles_per_panel <= _FEW_TILES:
            return None
        share = -(-self.tile.width // nest.tiles_per_panel)
        taps = self.shape.taps * self.shape.inputs + nest.first
        done = panel.number * taps + tirx.floordiv(offset, self.tile.width)
        start = panel.weights + taps * nest.width + done * share
        line = pointer(self.code, self.access.weights, [start])

        def load(k: Expr) -> Expr:
            place = tirx.address_of(tirx.BufferLoad(line, [k * share]))
            flags = [tirx.const(flag, "int32") for flag in (0, 2, 1)]  # to read, to L2, data
            return tirx.call_llvm_intrin("void", "llvm.prefetch", place, *flags)

        return load

    def _products(
        self, top: int, first: int, count: int, k: Expr, weights: Buffer, pixels: Span
    ) -> None:
        lanes, sums, dot = self.nest.lanes, self.sums, self.access.dot
        image = self.access.image
        row = top * self.rows[-1].phase.move * image.steps[-3] if top else 0
        with self.code.unrolled("p", count) as p:
            distance = row + (first + p) * (self.phase.move * image.column)
            element = pixels[k * image.channel + distance]
            if image.group > 1:
                element = self.code.bind(element, "word")
            place = top * self.run.size + first + p
            with self.code.unrolled("v", self.tile.vectors) as v:
                base = k * self.tile.width + v * lanes
                if dot.apart:
                    words = tirx.BufferLoad(weights, [tirx.Ramp(base, as_index(1), lanes)])
                    self.access.apart.add(self.code, sums, (place, v * lanes), element, words)
                else:
                    with self.code.vector("lane", lanes) as lane:
                        at = (place, v * lanes + lane)
                        total = dot.add(sums[at], element, weights[base + lane])
                        self.code.store(sums, at, total)

    def _finish(self, position: Expr, column: Coordinate, value: Expr) -> None:
        assert isinstance(column, Lane)
        top, right = position, position
        if self.height > 1:
            top = tirx.floordiv(position, self.run.size)
            right = tirx.floormod(position, self.run.size)
        place = [row.start * row.phase.step + row.phase.first for row in self.rows]
        if self.height > 1:
            place[-1] = place[-1] + top * self.rows[-1].phase.step
        place.append((self.left + right) * self.phase.step + self.phase.first)
        base = self.panel.output + column.base
        channel: Coordinate = Lane(base, column.lane, column.lanes)
        several = self.shape.groups > 1 or self.shape.outputs > self.nest.width
        if several and (self.shape.outputs % column.lanes or self.nest.width % column.lanes):
            channel = base + column.lane
        self.access.finish(self.panel.batch, place, channel, value)
