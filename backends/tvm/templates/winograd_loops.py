"""The loops of a Winograd convolution: blocks of tiles that stay in the second-level cache.

A block is transformed into `points` matrices [tiles][channels], each is multiplied by its own
weights, panel by panel of output channels, and what a panel gives is transformed back and finished
before the next one. Tiles that hang over the border read zeros there; results beyond it are not
stored. Which columns are inside is known in each case of the code, which rows is found out in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.image import Image
from optc.backends.tvm.templates.loops import FORK_CYCLES, Code, as_index
from optc.backends.tvm.templates.minimal import products
from optc.backends.tvm.templates.places import Coordinate, Lane
from optc.backends.tvm.templates.tile import Tile
from optc.backends.tvm.templates.winograd_knobs import Share, WinogradKnobs
from optc.backends.tvm.templates.winograd_products import Products, skewed
from optc.backends.tvm.templates.winograd_tiling import Tiling
from optc.ir.targets.target import Target

_F32 = "float32"


@dataclass(frozen=True)
class Operands:
    """How the loops reach memory; `finish(batch, place, channel, value)` stores a result."""

    image: Image
    weights: Buffer
    finish: Callable[[Expr, Sequence[Expr], Coordinate, Expr], None]


@dataclass(frozen=True)
class WinogradLoops:
    """Emits the loops of one convolution."""

    code: Code
    tiling: Tiling
    operands: Operands
    target: Target
    lanes: int
    cycles: float  # of the whole work: little is not worth waking threads for

    @property
    def shape(self) -> Geometry:
        """The loop bounds of the convolution."""
        return self.tiling.shape

    @property
    def knobs(self) -> WinogradKnobs:
        """The choices."""
        return self.tiling.knobs

    @property
    def width(self) -> int:
        """Output channels of a panel."""
        return self.knobs.vectors * self.lanes

    @property
    def panels(self) -> int:
        """Panels of output channels."""
        return -(-self.shape.outputs // self.width)

    @cached_property
    def apart(self) -> int:
        """Floats from a point's transformed tiles to the next point's."""
        return skewed(self.knobs.block * self.shape.inputs)

    @property
    def _products(self) -> Products:
        weights = self.operands.weights
        return Products(self.code, self.tiling, weights, self.target, self.lanes, self.apart)

    @property
    def half(self) -> int:
        """Floats of a vector of channels between the two steps of a transform.

        They lie behind what the transform reads or writes: memory on the stack is not aligned to
        whole vectors, and stores that cross a cache line are not forwarded to loads.
        """
        return self.tiling.points * self.lanes

    @property
    def data(self) -> int:
        """Floats of a block's transformed tiles, and of the steps before."""
        together = self.knobs.block if self.knobs.share is Share.CHANNELS else 1
        return self.tiling.points * self.apart + together * self.half

    def run(self) -> None:
        """The whole loop nest."""
        code = self.code
        if self.knobs.share is Share.TILES:
            with self._workers("worker", self.tiling.blocks) as stretch:
                data = code.scratch("data", (self.data,), _F32, "global")
                sums = self._sums()
                with stretch as block:
                    with code.loop("t", self._held(block)) as t:
                        self._transform(data, block, t)
                    with code.loop("panel", self.panels) as panel:
                        self._panel(data, sums, block, panel)
            return
        data = code.scratch("data", (self.data,), _F32, "global")
        with code.loop("block", self.tiling.blocks) as block:
            held = self._held(block)
            with code.shared("t", self.knobs.block, self.cycles / 4) as t, code.when(t < held):
                self._transform(data, block, t)
            with self._workers("worker", self.panels) as stretch:
                sums = self._sums()
                with stretch as panel:
                    self._panel(data, sums, block, panel)

    @contextmanager
    def _workers(self, name: str, items: int) -> Iterator[AbstractContextManager[Expr]]:
        """A parallel loop over as many workers as cores; gives each worker's loop over its items.

        What is allocated between the two loops is a worker's own, and stays in its caches.
        """
        workers = min(items, self.target.cores) if self.cycles > FORK_CYCLES else 1
        share = -(-items // workers)
        with self.code.parallel(name, workers) as worker:
            yield self._stretch(worker * share, share, items if workers * share > items else None)

    @contextmanager
    def _stretch(self, start: Expr, count: int, end: int | None) -> Iterator[Expr]:
        with self.code.loop("i", count) as i:
            item = self.code.bind(start + i, "item")
            if end is None:
                yield item
                return
            with self.code.when(item < end):
                yield item

    def _sums(self) -> Buffer:
        """What a panel's products sum up to, by point and tile."""
        size = self.tiling.points * skewed(self.knobs.block * self.width) + self.half
        return self.code.scratch("products", (size,), _F32, "global")

    def _held(self, block: Expr) -> Expr:
        """Tiles of a block."""
        left = self.tiling.tiles - block * self.knobs.block
        return self.code.bind(tirx.min(left, self.knobs.block), "held")

    def _place(self, block: Expr, t: Expr) -> tuple[Expr, Expr, Expr]:
        """Image, row and column of a block's tile among tiles."""
        rows, columns = self.tiling.grid
        bind = self.code.bind
        tile = bind(block * self.knobs.block + t, "tile")
        column = bind(tirx.floormod(tile, columns), "column")
        row = bind(tirx.floordiv(tile, columns), "row")
        batch: Expr = as_index(0)
        if self.shape.batch > 1:
            batch = bind(tirx.floordiv(row, rows), "batch")
            row = bind(tirx.floormod(row, rows), "row")
        return batch, row, column

    # From the image to points.

    def _transform(self, data: Buffer, block: Expr, t: Expr) -> None:
        """All channels of one tile."""
        batch, row, column = self._place(block, t)
        classes = self.tiling.columns()
        for number, (first, count, mask) in enumerate(classes):
            last = first + count
            tests = [column >= first] * (number > 0) + [column < last] * (
                last < self.tiling.grid[1]
            )
            with self._when(tests):
                for vectors, start, lanes in self._channels(self.shape.inputs):
                    with self.code.loop("c", vectors) as c:
                        channel = self.code.bind(start + c * lanes, "channel")
                        self._vector(data, (batch, row, column, channel), t, mask, lanes)

    def _channels(self, channels: int) -> Iterator[tuple[int, int, int]]:
        """(how many, first channel, lanes) of vectors."""
        whole = channels // self.lanes
        if whole:
            yield whole, 0, self.lanes
        if channels % self.lanes:
            rest = Tile(1, channels % self.lanes, self.lanes)
            yield from ((1, whole * self.lanes + at, lanes) for at, lanes in rest.pieces())

    @contextmanager
    def _when(self, tests: Sequence[Expr]) -> Iterator[None]:
        if not tests:
            yield
            return
        with self.code.when(tirx.all(*tests) if len(tests) > 1 else tests[0]):
            yield

    def _vector(
        self, data: Buffer, place: Sequence[Expr], t: Expr, mask: Sequence[bool], lanes: int
    ) -> None:
        """A vector of channels of one tile: along rows, then along columns."""
        code, tiling, image = self.code, self.tiling, self.operands.image
        batch, row, column, channel = place
        above, along = self.shape.axes[0][0], self.shape.axes[1][0]
        high, wide = tiling.down.points, tiling.across.points
        own = t * self.half if self.knobs.share is Share.CHANNELS else 0
        half = code.bind(as_index(self.tiling.points * self.apart) + own, "half")
        top = code.bind(row * self.knobs.height + above.offset, "top")
        left = code.bind(column * self.knobs.width + along.offset, "left")
        with code.loop("i", high) as i:
            y = code.bind(top + i, "y")
            start = code.bind(image.at([batch, y, left, channel]), "start")

            def across(inside: bool) -> None:
                with code.vector("lane", lanes) as lane:
                    pixels = [
                        code.bind(image.buffer[start + j * image.column + lane * image.channel])
                        if here and inside
                        else None
                        for j, here in enumerate(mask)
                    ]
                    found = products(tiling.across.data, pixels, code.bind)
                    for j, value in enumerate(found):
                        code.store(data, (half + (i * wide + j) * lanes + lane,), value)

            if above.never_outside and self._fits(0):
                across(True)
            else:
                inside = tirx.all(y >= 0, y < above.extent)
                for here, chosen in code.cases(inside, (1, True), (1, False)):
                    with chosen:
                        across(here)
        base = code.bind(t * self.shape.inputs + channel, "base")
        with code.loop("j", wide) as j, code.vector("lane", lanes) as lane:
            halves = [code.bind(data[half + (i * wide + j) * lanes + lane]) for i in range(high)]
            found = products(tiling.down.data, halves, code.bind)
            for i, value in enumerate(found):
                code.store(data, (base + (i * wide + j) * self.apart + lane,), value)

    def _fits(self, axis: int) -> bool:
        """Whether tiles fill the output along the axis."""
        size = (self.knobs.height, self.knobs.width)[axis]
        return self.tiling.extents[axis] % size == 0

    # Products.

    def _panel(self, data: Buffer, sums: Buffer, block: Expr, panel: Expr) -> None:
        """One panel of output channels, for all tiles of a block."""
        full, left = divmod(self.shape.outputs, self.width)
        widths = (full, self.width), (self.panels - full, left)
        for columns, here in self.code.cases(panel < full, *widths):
            with here:
                tile = Tile(self.knobs.rows, columns, self.lanes)
                self._products.multiply(data, sums, tile, panel)
                with self.code.loop("t", self._held(block)) as t:
                    self._finish(sums, tile, panel, self._place(block, t), t)

    # From points to results.

    def _finish(
        self, sums: Buffer, tile: Tile, panel: Expr, place: tuple[Expr, Expr, Expr], t: Expr
    ) -> None:
        """All results of one tile in a panel."""
        batch, row, column = place
        full, rest = divmod(self.tiling.extents[1], self.knobs.width)
        widths = (full, self.knobs.width), (self.tiling.grid[1] - full, rest)
        for count, here in self.code.cases(column < full, *widths):
            with here:
                whole = tile.columns // self.lanes
                spots = [(whole, 0, self.lanes)] if whole else []
                if tile.columns % self.lanes:
                    spots.append((1, whole * self.lanes, tile.columns % self.lanes))
                for vectors, start, used in spots:
                    with self.code.loop("v", vectors) as v:
                        at = self.code.bind(start + v * self.lanes, "at")
                        self._results(sums, tile, panel, (batch, row, column), t, at, used, count)

    def _results(
        self,
        sums: Buffer,
        tile: Tile,
        panel: Expr,
        place: tuple[Expr, Expr, Expr],
        t: Expr,
        at: Expr,
        used: int,
        count: int,
    ) -> None:
        """One vector of channels: along columns, then along rows, `count` of which are inside."""
        code, tiling, lanes = self.code, self.tiling, self.lanes
        batch, row, column = place
        high, wide = tiling.down.points, tiling.across.points
        apart = skewed(self.knobs.block * tile.width)
        half = tiling.points * apart
        base = code.bind(t * tile.width + at, "base")
        with code.loop("j", wide) as j, code.vector("lane", lanes) as lane:
            found = [code.bind(sums[base + (i * wide + j) * apart + lane]) for i in range(high)]
            for i, value in enumerate(products(tiling.down.result, found, code.bind)):
                code.store(sums, (half + (i * wide + j) * lanes + lane,), value)
        top = code.bind(row * self.knobs.height, "top")
        left = code.bind(column * self.knobs.width, "left")
        height = self.knobs.height
        extent = as_index(height)
        if not self._fits(0):
            extent = code.bind(tirx.min(self.tiling.extents[0] - top, height), "extent")
        channel = code.bind(panel * self.width + at, "channel")
        with code.loop("i", extent) as i:
            values = code.scratch("values", (count, lanes), _F32)
            with code.vector("lane", lanes) as lane:
                points = [
                    code.bind(sums[half + (i * wide + j) * lanes + lane]) for j in range(wide)
                ]
                found = products(tiling.across.result[:count], points, code.bind)
                for j, value in enumerate(found):
                    code.store(values, (j, lane), value)
            for j in range(count):
                for first, width in Tile(1, used, lanes).pieces():
                    with code.vector("lane", width) as lane:
                        to: Coordinate = Lane(channel + first, lane, width)
                        value = values[j, first + lane]
                        self.operands.finish(batch, [top + i, left + j], to, value)
