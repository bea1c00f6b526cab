"""The register tile of a direct convolution: its sums, over the whole window and all channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.conv_knobs import Order
from optc.backends.tvm.templates.conv_loops import ConvLoops
from optc.backends.tvm.templates.image import Span, pointer
from optc.backends.tvm.templates.loops import as_index
from optc.backends.tvm.templates.places import Coordinate, Lane
from optc.backends.tvm.templates.taps import Phase, Run, stretches
from optc.backends.tvm.templates.tile import Tile, drain

# So few tiles share a panel that waiting for the next one to arrive would show.
_FEW_TILES = 32


@dataclass(frozen=True)
class Rows:
    """Where a tile is along the axes but the last: taps loop freely (Phase) or by cases (Run)."""

    phase: Phase
    start: Expr  # output of the phase
    run: Run | None


@dataclass(frozen=True)
class Panel:
    """Output channels that a tile has sums of, in one image of a batch."""

    loops: ConvLoops
    batch: Expr
    group: Expr
    columns: int
    output: Expr  # the first channel
    weights: Expr  # where its weights begin
    number: Expr  # of the tile, of those that use the panel one after the other


class ConvTile:
    """One register tile: `run.size` columns from `left` on, of the rows that the last axis has."""

    def __init__(
        self,
        panel: Panel,
        rows: list[Rows],
        bounds: list[tuple[Expr, Expr]],
        phase: Phase,
        run: Run,
        left: Expr,
    ) -> None:
        self.panel, self.loops, self.access = panel, panel.loops, panel.loops.access
        self.code, self.shape = panel.loops.code, panel.loops.shape
        self.rows, self.bounds, self.phase, self.run, self.left = rows, bounds, phase, run, left
        self.height = rows[-1].run.size if rows and rows[-1].run else 1
        positions = self.height * run.size
        self.tile = Tile(positions, panel.columns, self.loops.lanes)
        width = self.tile.width * self.access.dot.sums
        self.sums: Buffer = self.code.scratch("sums", (positions, width), self.access.dtype)

    def emit(self) -> None:
        """Clear, sum, finish."""
        lanes = self.loops.lanes * self.access.dot.sums
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
        if not self.loops.first:
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
        offset = (flat * self.shape.inputs + self.loops.first) * self.tile.width
        weights = pointer(self.code, self.access.weights, [self.panel.weights + offset])
        beyond = self.panel.group * self.access.group_step
        pixels = self.access.image.span(self.code, [self.panel.batch, *place, 0], beyond)
        together = stretches(inside)
        unroll = min(self.loops.knobs.unroll, extent)
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
        loops, panel = self.loops, self.panel
        if loops.knobs.order is not Order.WEIGHTS or not 1 < loops.tiles_per_panel <= _FEW_TILES:
            return None
        share = -(-self.tile.width // loops.tiles_per_panel)
        taps = self.shape.taps * self.shape.inputs + loops.first
        done = panel.number * taps + tirx.floordiv(offset, self.tile.width)
        start = panel.weights + taps * loops.width + done * share
        line = pointer(self.code, self.access.weights, [start])

        def load(k: Expr) -> Expr:
            place = tirx.address_of(tirx.BufferLoad(line, [k * share]))
            flags = [tirx.const(flag, "int32") for flag in (0, 2, 1)]  # to read, to L2, data
            return tirx.call_llvm_intrin("void", "llvm.prefetch", place, *flags)

        return load

    def _products(
        self, top: int, first: int, count: int, k: Expr, weights: Buffer, pixels: Span
    ) -> None:
        lanes, sums, dot = self.loops.lanes, self.sums, self.access.dot
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
        several = self.shape.groups > 1 or self.shape.outputs > self.loops.width
        if several and (self.shape.outputs % column.lanes or self.loops.width % column.lanes):
            channel = base + column.lane
        self.access.finish(self.panel.batch, place, channel, value)
