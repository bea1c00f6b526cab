"""Convolutions by ARM's matrix instructions, which multiply two positions by two output channels.

`smmla` takes eight bytes of each of them, `bfmmla` four halves: twice the products of a dot product
that meets one position. Positions belong together in pairs whatever tap they read, so an image that
has padding is stored with its border (see `words`) and no tile has cases; what a tile's last
position lacks of a pair is computed and not read. Otherwise the loops are those of `convolve`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.conv import Convolution, ConvPack, ConvPlan, may_alias
from optc.backends.tvm.templates.dot import Dot, in_pairs
from optc.backends.tvm.templates.fused import FusedEmitter
from optc.backends.tvm.templates.geometry import Geometry, geometry
from optc.backends.tvm.templates.image import Image, Span, channels_at_end, neighbours, pointer
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import digits_of
from optc.backends.tvm.templates.places import Coordinate, Lane, plain
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.taps import Phase
from optc.backends.tvm.templates.tile import Tile, drain, in_rows, register_rows
from optc.backends.tvm.templates.words import WordReader, WordShape, in_words
from optc.ir.graph import Node
from optc.ir.ops import Conv
from optc.ir.targets.target import Target

_MOST_VECTORS = 6
_START = 60.0  # cycles of a tile's first and last steps
_STORE = 3.0  # of clearing and storing a vector of sums
_PRODUCTS = 40  # instructions of an iteration, from which more only take room


@dataclass(frozen=True, slots=True)
class PairedKnobs:
    """Register tile: `rows` x `columns` positions by `vectors` of output channels.

    `unroll` pairs of words are multiplied in an iteration. `by_weights`: a panel of weights goes
    over the whole image before the next one is loaded.
    """

    rows: int
    columns: int
    vectors: int
    unroll: int
    by_weights: bool


@dataclass(frozen=True)
class PairedConvolution:
    """Template of convolutions whose target multiplies by pairs."""

    name: str = "paired-conv"
    version: int = 1

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes what `conv` takes, without groups, of bytes and halves that fill whole words."""
        direct = Convolution().match(problem)
        if isinstance(direct, Miss):
            return direct
        assert isinstance(direct, ConvPlan)
        node = direct.node
        kinds = [value.type.dtype for value in node.inputs[:2]]
        dot = in_pairs(problem.target, *kinds)
        if not dot.pairs:
            return Miss(f"the target multiplies no pairs of {kinds[0]} and {kinds[1]}")
        if not isinstance(node.op, Conv) or node.op.groups != 1:
            return Miss("groups, or phases of a transposed convolution, have sums of their own")
        shape = geometry(node)
        if kinds[0].is_float and shape.inputs % dot.block:
            return Miss(f"{shape.inputs} channels leave places of a word that may hold no number")
        if shape.results < 2:
            return Miss("there is a single position")
        return PairedPlan(direct, dot, f"{self.name}/{self.version}")


@dataclass(frozen=True)
class PairedPlan:
    """A convolution and how its target multiplies pairs."""

    direct: ConvPlan
    dot: Dot
    template: str

    @property
    def node(self) -> Node:
        """The convolution."""
        return self.direct.node

    @property
    def target(self) -> Target:
        """The machine."""
        return self.direct.target

    @cached_property
    def words(self) -> WordShape:
        """The loop bounds in words, and how the image is stored for them."""
        return in_words(geometry(self.node), self.dot)

    @property
    def lanes(self) -> int:
        """Output channels of a vector."""
        return self.target.lanes(self.dot.sum)

    @property
    def extents(self) -> tuple[int, ...]:
        """Of the output's places."""
        return tuple(phase.count for (phase,) in self.words.shape.axes)

    def cycles(self, knobs: PairedKnobs) -> float:
        """Estimated cycles of all tiles, times how unevenly cores share them."""
        shape, cores = self.words.shape, self.target.cores
        *outer, height, width = (1, *self.extents)
        rows, columns = -(-height // knobs.rows), -(-width // knobs.columns)
        full, rest = divmod(-(-shape.outputs // self.lanes), knobs.vectors)
        tiles = shape.batch * math.prod(outer) * rows * columns
        high, wide = height / rows, width / columns
        cost = full * self._tile(high * wide, knobs.vectors)
        cost += self._tile(high * wide, rest) if rest else 0.0
        items = tiles * (full + (rest > 0))
        return cost * tiles * (-(-items // cores) * cores / items)

    def _tile(self, positions: float, vectors: int) -> float:
        pairs, shape = math.ceil(positions / 2), self.words.shape
        products, loads = 2 * pairs * vectors, 2 * pairs + 2 * vectors
        step = max(products / 2, loads / 2, 4.0)
        return step * shape.taps * shape.inputs / 2 + _STORE * 2 * pairs * vectors + _START

    def candidates(self) -> Sequence[Knobs]:
        """Tiles by rising estimates."""
        vectors = min(_MOST_VECTORS, -(-self.words.shape.outputs // self.lanes))
        found = [knobs for count in range(1, vectors + 1) for knobs in self._tiles(count)]
        return sorted(dict.fromkeys(found), key=lambda knobs: (self.cycles(knobs), repr(knobs)))

    def _tiles(self, vectors: int) -> Iterator[PairedKnobs]:
        limit = register_rows(self.target, vectors, self.dot)
        *_, height, width = (1, *self.extents)
        far = self.node.inputs[1].type.nbytes > self.target.cache("l2", 1 << 18) // 2
        for size in range(max(1, limit // 2), limit + 1):
            columns = -(-width // -(-width // size))
            tall = -(-height // -(-height // max(1, limit // columns)))
            for rows in {1, tall if columns == width else 1}:
                products = -(-rows * columns // 2) * 2 * vectors
                unroll = max(1, _PRODUCTS // products)
                steps = self.words.shape.inputs // 2
                unroll = max(n for n in range(1, unroll + 1) if steps % n == 0)
                yield PairedKnobs(rows, columns, vectors, unroll, far)

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over tiles, after a copy of the input where that is needed."""
        if type(knobs) is not PairedKnobs:
            raise TypeError(f"paired-conv does not know {knobs!r}")
        return _Emission(self, knobs).run(symbol)


class _Emission:
    def __init__(self, plan: PairedPlan, knobs: PairedKnobs) -> None:
        self.plan, self.knobs, self.node, self.dot = plan, knobs, plan.node, plan.dot
        self.shape: Geometry = plan.words.shape
        self.width = knobs.vectors * plan.lanes
        pack = ConvPack(1, self.width, plan.lanes, False, self.dot.packing, plan.words.taps)
        task = plan.direct.task
        place = task.problem.body.inputs.index(self.node.inputs[1])
        self.io: FusedEmitter = task.emitter({place: pack})
        self.packed = self.io.packed(self.node.inputs[1])
        self.code = Code()

    def run(self, symbol: str) -> Emitted:
        plan, code, x = self.plan, self.code, self.node.inputs[0]
        order = channels_at_end(x.type.rank, self.shape.channels_last)
        image = WordReader(code, self.io, x, self.dot, plan.words, order, plan.target).image()
        *outer, height, width = (1, *plan.extents)
        rows, columns = -(-height // self.knobs.rows), -(-width // self.knobs.columns)
        panels = -(-self.shape.outputs // self.width)
        places = [self.shape.batch, *outer, rows, columns]
        extents = [panels, *places] if self.knobs.by_weights else [*places, panels]
        with code.shared("item", math.prod(extents), plan.cycles(self.knobs)) as item:
            digits = digits_of(code, item, extents)
            panel = digits.pop(0 if self.knobs.by_weights else -1)
            batch, *beyond, row, column = digits
            full, rest = divmod(self.shape.outputs, self.width)
            for tall, high in self._cases(row, height, rows):
                with high[0]:
                    for wide, along in self._cases(column, width, columns):
                        with along[0]:
                            widths = (full, self.width), (panels - full, rest)
                            for channels, here in code.cases(panel < full, *widths):
                                with here:
                                    starts = [*beyond, high[1], along[1]][-len(plan.extents) :]
                                    tile = _Tile(self, image, (tall, wide), channels)
                                    tile.emit(batch, starts, panel)
        return may_alias(self.io.finish(code, symbol))

    def _cases(self, number: Expr, extent: int, tiles: int):  # type: ignore[no-untyped-def]
        """(places of a tile, (its context, its first place)): tiles differ by one place at most."""
        short, longer = divmod(extent, tiles)
        start = self.code.bind(number * short + tirx.min(number, as_index(longer)), "start")
        for size, here in self.code.cases(
            number < longer, (longer, short + 1), (tiles - longer, short)
        ):
            yield size, (here, start)

    def finish(self, batch: Expr, place: Sequence[Expr], channel: Coordinate, value: Expr) -> None:
        """Store a result, with the bias and all that is fused behind it."""
        if len(self.node.inputs) > 2:
            (at,) = plain([channel])
            bias = self.io.read(None, self.node.inputs[2], [at])
            kind = tvm_dtype(self.dot.sum)
            value = value + (bias if bias.ty.dtype == kind else tirx.Cast(kind, bias))
        self.io.store(self.code, self.shape.index(batch, tuple(place), channel), value)


class _Tile:
    """`size` rows and columns of positions by some output channels of a panel."""

    def __init__(self, nest: _Emission, image: Image, size: tuple[int, int], channels: int) -> None:
        self.nest, self.code, self.image, self.size = nest, nest.code, image, size
        self.dot, self.shape = nest.dot, nest.shape
        self.tile = Tile(size[0] * size[1], channels, nest.plan.lanes)
        self.pairs = -(-self.tile.rows // 2)
        kind = tvm_dtype(self.dot.sum)
        self.quads = self.code.scratch("pairs", (self.pairs, 2 * self.tile.width), kind)

    @property
    def phases(self) -> list[Phase]:
        """One for each axis."""
        return [phase for (phase,) in self.shape.axes]

    def emit(self, batch: Expr, starts: Sequence[Expr], panel: Expr) -> None:
        """Clear, sum, finish."""
        code, tile, nest = self.code, self.tile, self.nest
        for pair, first in self._quads():
            with code.vector("lane", 4) as lane:
                zero = tirx.const(0, self.quads.dtype)
                code.store(self.quads, (pair, first + lane), zero)
        rows = self.shape.taps * self.shape.inputs
        weights = code.bind(panel * (nest.width * rows), "weights")
        self._taps(batch, starts, weights, [], as_index(0))
        sums = in_rows(code, tile, self.quads)
        channel = code.bind(panel * nest.width, "channel")

        def finish(position: Expr, column: Coordinate, value: Expr) -> None:
            assert isinstance(column, Lane)
            place = list(starts)
            if self.size[0] > 1:
                place[-2] = place[-2] + tirx.floordiv(position, self.size[1])
                position = tirx.floormod(position, self.size[1])
            place[-1] = place[-1] + position
            nest.finish(batch, place, Lane(channel + column.base, column.lane, column.lanes), value)

        drain(code, tile, sums, finish, nest.plan.direct.task.epilogue_size)

    def _taps(
        self, batch: Expr, starts: Sequence[Expr], weights: Expr, place: list[Expr], flat: Expr
    ) -> None:
        """Loop over the window, neighbours along the last axis as one run of channels."""
        axis = len(place)
        if axis == len(self.phases):
            self._sum(batch, weights, place, flat, self.shape.inputs)
            return
        phase, code, image = self.phases[axis], self.code, self.image
        last = axis == len(self.phases) - 1
        first = code.bind(starts[axis] * phase.move + phase.offset, "first")
        # Channel c + `inputs` of a place is then channel c of the next place.
        words = self.shape.inputs * image.channel
        if last and phase.gap == 1 and image.column == words:
            self._sum(
                batch, weights, [*place, first], flat * phase.taps, self.shape.inputs * phase.taps
            )
            return
        with code.loop("tap", phase.taps) as tap:
            at = code.bind(first + tap * phase.gap, "at")
            self._taps(batch, starts, weights, [*place, at], flat * phase.taps + tap)

    def _sum(self, batch: Expr, weights: Expr, place: list[Expr], flat: Expr, extent: int) -> None:
        """Add the products of `extent` words."""
        code, tile = self.code, self.tile
        start = weights + flat * (self.shape.inputs * tile.width)
        panel = pointer(code, self.nest.packed, [start])
        pixels = self.image.span(code, [batch, *place, 0])
        blocks, rest = divmod(extent // 2, self.nest.knobs.unroll)
        if blocks:
            with code.loop("k", blocks) as k, code.unrolled("u", self.nest.knobs.unroll) as u:
                self._step(pixels, panel, (k * self.nest.knobs.unroll + u) * 2)
        for i in range(rest):
            self._step(pixels, panel, as_index((blocks * self.nest.knobs.unroll + i) * 2))

    def _step(self, pixels: Span, panel: Buffer, k: Expr) -> None:
        """Two words of every position and channel."""
        code, left = self.code, {}
        for pair in range(self.pairs):
            left[pair] = code.scratch("left", (4,), self.dot.left_word)
            for side in range(2):
                # Of a last position alone, the second half of the sums is never read.
                position = min(2 * pair + side, self.tile.rows - 1)
                every = tirx.Ramp(as_index(2 * side), as_index(1), 2)
                code.store(left[pair], (every,), self._words(pixels, k, position))
        for pair, first in self._quads():
            with code.vector("lane", 4) as lane:
                at = (pair, first + lane)
                weight = panel[k * self.tile.width + (first + lane)]
                added = self.dot.add(self.quads[at], left[pair][lane], weight)
                code.store(self.quads, at, added)

    def _words(self, pixels: Span, k: Expr, position: int) -> Expr:
        """Two words of a position."""
        top, column = divmod(position, self.size[1])
        distance = column * self.phases[-1].move * self.image.column
        if top:
            distance += top * self.phases[-2].move * self.image.steps[-3]
        place = pixels.start + tirx.Cast("int64", k * self.image.channel + distance)
        return neighbours(pixels.buffer, [place], pixels.group, 2)

    def _quads(self) -> Iterator[tuple[int, int]]:
        """(pair of positions, first word) of each vector of sums."""
        return product(range(self.pairs), range(0, 2 * self.tile.width, 4))
