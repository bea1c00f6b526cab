"""The loops of a direct convolution: a register tile that slides over the output.

An item of work is a panel of output channels over a stretch of one output row. Its tiles keep
`rows` x `columns` positions times `width` channels in registers over the whole window and all input
channels; a weight vector is used once per position, an input element once per vector of channels.
The weights of a panel, `[taps][channels][width]`, stream from the second-level cache.

Nothing is padded and no image-to-column matrix is made: see `taps` for how borders are treated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.places import Coordinate, Lane
from optc.backends.tvm.templates.taps import Phase, Run, axis_runs
from optc.backends.tvm.templates.tile import Tile, drain


class Order(Enum):
    """What neighbouring items share."""

    WEIGHTS = "weights"  # a panel goes over the whole image before the next one is loaded
    IMAGE = "image"  # all panels are applied to a row before the next one


@dataclass(frozen=True, slots=True)
class ConvKnobs:
    """Register tile of `rows` x `columns` positions by `vectors`; `unroll` channels per iteration."""

    rows: int
    columns: int
    vectors: int
    unroll: int
    order: Order


@dataclass(frozen=True)
class Access:
    """How the loops reach memory; all values are of `dtype`, the type that sums are kept in.

    `image(batch, place, channel)` reads the input. Where `joined`, channel c + C of a place is
    channel c of the next place. `weights` is flat and packed. `finish(batch, place, channel, value)`
    stores a result, inside a vector loop.
    """

    dtype: str
    image: Callable[[Expr, Sequence[Expr], Expr], Expr]
    joined: bool
    weights: Callable[[Expr], Expr]
    finish: Callable[[Expr, Sequence[Expr], Coordinate, Expr], None]
    epilogue_size: int


@dataclass(frozen=True)
class Convolve:
    """Emits the loops of one convolution."""

    code: Code
    shape: Geometry
    knobs: ConvKnobs
    access: Access
    lanes: int
    chunks: int  # items that share a row of tiles
    parallel: bool

    @property
    def width(self) -> int:
        """Channels of a panel."""
        return self.knobs.vectors * self.lanes

    @property
    def padded(self) -> int:
        """Output channels of a group in whole vectors."""
        return -(-self.shape.outputs // self.lanes) * self.lanes

    def run(self) -> None:
        """The whole loop nest."""
        panels = -(-self.shape.outputs // self.width)
        images = [self.shape.batch, *self._row_counts(), self.chunks]
        weights = [self.shape.groups, panels]
        by_weights = self.knobs.order is Order.WEIGHTS
        radices = [*weights, *images] if by_weights else [*images, *weights]
        start = self.code.parallel if self.parallel else self.code.loop
        with start("item", math.prod(radices)) as item:
            digits = self._digits(item, radices)
            if by_weights:
                (group, panel), (batch, *rows, chunk) = digits[:2], digits[2:]
            else:
                (batch, *rows, chunk), (group, panel) = digits[:-2], digits[-2:]
            full, left = divmod(self.shape.outputs, self.width)
            widths = (full, self.width), (panels - full, left)
            for columns, here in self.code.cases(panel < full, *widths):
                with here:
                    place = _Panel(self, group, panel, columns, batch, chunk)
                    place.over_rows(rows)

    def _row_counts(self) -> list[int]:
        """Items along each axis but the last."""
        axes = self.shape.axes[:-1]
        counts = [max(phase.count for phase in phases) for phases in axes]
        if self.knobs.rows > 1:
            counts[-1] = sum(run.repeat for _, run in axis_runs(axes[-1], self.knobs.rows))
        return counts

    def _digits(self, item: Expr, radices: Sequence[int]) -> list[Expr]:
        found: list[Expr] = []
        for radix in reversed(radices[1:]):
            digit: Expr = as_index(0)
            if radix > 1:
                digit = self.code.bind(tirx.floormod(item, radix), "digit")
                item = self.code.bind(tirx.floordiv(item, radix), "rest")
            found.append(digit)
        return [item if radices[0] > 1 else as_index(0), *reversed(found)]


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
        chunk: Expr,
    ) -> None:
        self.nest, self.code, self.shape = nest, nest.code, nest.shape
        self.batch, self.chunk = batch, chunk
        self.columns = columns
        taps = self.shape.taps * self.shape.inputs
        start = (group * nest.padded + panel * nest.width) * taps
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
        """The tiles of this item's share of a row."""
        bounds = [self._bounds(row) for row in rows]
        cases = axis_runs(self.shape.axes[-1], self.nest.knobs.columns)
        tiles = sum(run.repeat for _, run in cases)
        chunks = self.nest.chunks
        low = self.code.bind(tirx.floordiv(self.chunk * tiles, chunks), "low")
        high = self.code.bind(tirx.floordiv((self.chunk + 1) * tiles, chunks), "high")
        at = 0
        for phase, run in cases:
            if chunks == 1:
                first, extent = as_index(0), as_index(run.repeat)
            else:
                first = self.code.bind(tirx.max(low - at, 0), "first")
                extent = tirx.min(high - at, run.repeat) - first
            with self.code.loop("tile", run.repeat if chunks == 1 else extent) as step:
                left = self.code.bind((first + step) * run.size + run.first, "left")
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
        self.sums: Buffer = self.code.scratch(
            "sums", (positions, self.tile.width), self.access.dtype
        )

    def emit(self) -> None:
        """Clear, sum, finish."""
        with self.code.unrolled("p", self.tile.rows) as p:
            with self.code.unrolled("v", self.tile.vectors) as v:
                with self.code.vector("lane", self.nest.lanes) as lane:
                    at = (p, v * self.nest.lanes + lane)
                    self.code.store(self.sums, at, tirx.const(0, self.access.dtype))
        self._sweep([], [], list(range(self.height)))
        drain(self.code, self.tile, self.sums, self._finish, self.access.epilogue_size)

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
        """The taps of the last axis."""
        phase, channels = self.phase, self.shape.inputs
        if not phase.taps:  # a stride longer than the window: these outputs are the bias
            return
        start = self.code.bind(self.left * phase.move + phase.offset, "column")
        everything = list(range(self.run.size))
        in_order = phase.gap == 1 and phase.stride == 1 and phase.taps == self.shape.kernel[-1]
        if self.run.whole and in_order and self.access.joined and self.shape.groups == 1:
            self._sum(phase.taps * channels, kernel, as_index(0), [*place, start], tops, everything)
        elif self.run.whole:
            with self.code.loop("tap", phase.taps) as tap:
                column = self.code.bind(start + tap * phase.gap, "column")
                element = phase.kernel + tap * phase.stride
                self._sum(channels, kernel, element, [*place, column], tops, everything)
        else:
            for tap, mask in enumerate(self.run.mask):
                inside = [p for p in everything if mask[p]]
                if inside:
                    column = start + tap * phase.gap
                    element = as_index(phase.kernel + tap * phase.stride)
                    self._sum(channels, kernel, element, [*place, column], tops, inside)

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
        offset = flat * (self.shape.inputs * self.tile.width)
        weights = self.code.bind(self.panel.weights + offset, "weights")
        stretches = _stretches(inside)
        unroll = min(self.nest.knobs.unroll, extent)
        blocks, rest = divmod(extent, unroll)

        def step(k: Expr) -> None:
            for top in tops:
                for first, count in stretches:
                    self._products(top, first, count, k, weights, place)

        if blocks:
            with self.code.loop("k", blocks) as k, self.code.unrolled("u", unroll) as u:
                step(k * unroll + u)
        if rest:
            with self.code.unrolled("u", rest) as u:
                step(blocks * unroll + u)

    def _products(
        self, top: int, first: int, count: int, k: Expr, weights: Expr, place: list[Expr]
    ) -> None:
        lanes, sums = self.nest.lanes, self.sums
        channel = self.panel.group * self.shape.inputs + k
        with self.code.unrolled("p", count) as p:
            column = place[-1] + (first + p) * self.phase.move
            above = place[:-1]
            if top:
                above = [*above[:-1], above[-1] + top * self.rows[-1].phase.move]
            pixel = self.access.image(self.panel.batch, [*above, column], channel)
            with self.code.unrolled("v", self.tile.vectors) as v:
                with self.code.vector("lane", lanes) as lane:
                    weight = self.access.weights(weights + k * self.tile.width + v * lanes + lane)
                    at = (top * self.run.size + first + p, v * lanes + lane)
                    self.code.store(sums, at, sums[at] + pixel * weight)

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
        if self.shape.groups > 1 and self.shape.outputs % column.lanes:
            channel = base + column.lane
        self.access.finish(self.panel.batch, place, channel, value)


def _stretches(inside: Sequence[int]) -> list[tuple[int, int]]:
    """(first, count) of the runs of neighbours."""
    found: list[tuple[int, int]] = []
    for item in inside:
        if found and sum(found[-1]) == item:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((item, 1))
    return found
