"""Products of a Winograd convolution: every point's tiles times its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.apart import SUMS
from optc.backends.tvm.templates.image import Span, pointer
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.products_apart import Passes
from optc.backends.tvm.templates.tile import Tile, accumulate, broadcasts_lanes
from optc.backends.tvm.templates.winograd_tiling import Tiling
from optc.ir.targets.target import Target

_PAGE = 1024  # floats of a page, whose multiples fall into the same cache sets
_SKEW = 16
_LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class _Strip:
    """Tiles of one point, from `first` in `data` on, whose products go to `sums` from `to` on."""

    tile: Tile
    data: Buffer
    first: Expr
    weights: Buffer
    sums: Buffer
    to: Expr
    number: Expr


@dataclass(frozen=True)
class Products:
    """Multiplies blocks of transformed tiles, whose points lie `distance` floats apart."""

    code: Code
    tiling: Tiling
    weights: Buffer
    target: Target
    lanes: int
    distance: int

    def multiply(self, data: Buffer, sums: Buffer, tile: Tile, panel: Expr) -> None:
        """Every point's tiles times its weights."""
        code, depth, rows = self.code, self.tiling.shape.inputs, self.tiling.knobs.rows
        points = self.tiling.points
        full = self.tiling.knobs.vectors * self.lanes
        start = code.bind(panel * (points * depth * full), "start")
        apart = skewed(self.tiling.knobs.block * tile.width)
        multiply = self._apart if self.tiling.knobs.apart else self._together
        with (
            code.loop("point", points) as point,
            code.loop("strip", self.tiling.knobs.strips) as strip,
        ):
            weights = pointer(code, self.weights, [start + point * (depth * tile.width)])
            first = code.bind(point * self.distance + strip * (rows * depth), "first")
            to = code.bind(point * apart + strip * (rows * tile.width), "to")
            multiply(_Strip(tile, data, first, weights, sums, to, strip))

    def _together(self, strip: _Strip) -> None:
        """A register tile of all columns of a panel."""
        code, depth, tile, weights = self.code, self.tiling.shape.inputs, strip.tile, strip.weights
        span = Span(strip.data, code.bind(tirx.Cast("int64", strip.first), "first"))

        def load(buffer: Buffer, row: int, k: Expr) -> None:
            with code.vector("lane", int(buffer.shape[0])) as lane:
                code.store(buffer, (lane,), strip.data[strip.first + row * depth + k + lane])

        found = accumulate(
            code,
            tile,
            depth,
            self.tiling.knobs.unroll,
            lambda row, k: span[k + row * depth],
            lambda k, column: weights[k * tile.width + column],
            by_lanes=load if broadcasts_lanes(self.target) else None,
            ahead=self._ahead(strip) if self._are_far else None,
        )
        for row in range(tile.rows):
            with code.unrolled("v", tile.vectors) as v:
                with code.vector("lane", self.lanes) as lane:
                    at = v * self.lanes + lane
                    place = strip.to + row * tile.width + at
                    code.store(strip.sums, (place,), found[row, at])

    def _apart(self, strip: _Strip) -> None:
        """A vector of a few columns after the other, with two sums for each result."""
        code, depth, lanes, tile = self.code, self.tiling.shape.inputs, self.lanes, strip.tile
        span = Span(strip.data, code.bind(tirx.Cast("int64", strip.first), "first"), SUMS)
        passes = Passes(code, Tile(tile.rows, tile.width, lanes), self.tiling.knobs.apart)

        def right(number: Expr, place: Expr) -> Expr:
            at = number * (depth * passes.columns) + place * SUMS
            vector = tirx.BufferLoad(strip.weights, [tirx.Ramp(at, as_index(1), lanes)])
            return tirx.reinterpret(f"int64x{lanes // SUMS}", vector)

        def keep(row: int, column: Expr, value: Expr) -> None:
            code.store(strip.sums, (strip.to + row * tile.width + column,), value)

        size = self.tiling.knobs.unroll * passes.columns * SUMS
        passes.run(
            depth // SUMS,
            self.tiling.knobs.unroll,
            lambda row, k: span[k * SUMS + row * depth],
            right,
            keep,
            along=self._along(strip, size) if self._are_far else None,
        )

    @property
    def _are_far(self) -> bool:
        """Whether weights come from beyond the second-level cache each time."""
        shape = self.tiling.shape
        nbytes = 4 * self.tiling.points * shape.inputs * shape.outputs
        return nbytes > self.target.cache("l2", 1 << 18)

    def _ahead(self, strip: _Strip) -> Callable[[Expr], None]:
        """Asks for the next point's weights, a part in every strip: they lie behind this one's."""
        knobs, width = self.tiling.knobs, strip.tile.width
        lines = knobs.unroll * width * 4 / _LINE
        each = math.ceil(lines / knobs.strips)

        def fetch(step: Expr) -> None:
            for n in range(each):
                line = (step * knobs.strips + strip.number) * each + n
                place = self.tiling.shape.inputs * width + line * (_LINE // 4)
                self.code.prefetch(strip.weights, place)

        return fetch

    def _along(self, strip: _Strip, size: int) -> Callable[[Expr], None]:
        """The same, by blocks of `size` floats that a strip passes."""
        knobs, whole = self.tiling.knobs, self.tiling.shape.inputs * strip.tile.width
        step, floats = size // knobs.strips, _LINE // 4

        def fetch(block: Expr) -> None:
            # A strip's part; where that is less than a line for each block, one is asked for again.
            place = strip.number * (whole // knobs.strips) + block * step
            for line in range(-(-step // floats)):
                self.code.prefetch(strip.weights, whole + place + line * floats)

        return fetch


def skewed(size: int) -> int:
    """At least `size`, whole vectors, and no multiple of what collides in caches."""
    size = -(-size // _SKEW) * _SKEW
    return size + _SKEW if size % (_PAGE // 4) < _SKEW else size
