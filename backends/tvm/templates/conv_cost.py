"""Which register tile a convolution takes: cycles by what binds a step of the inner loop.

Measured on Zen 5 against the tiles of ResNet-50's layers: the first choice is within a few percent
of the best. Units are slots of multiply-add issue, two of which make a cycle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise, product

from optc.backends.tvm.templates.apart import overwrites
from optc.backends.tvm.templates.conv_knobs import ConvKnobs, Order
from optc.backends.tvm.templates.dot import Dot
from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.taps import Phase, pieces
from optc.ir.targets.target import Target

_LATENCY = 8.0  # additions in flight before a sum may be added to again
_L2_LINE = 4.0  # 64 bytes of weights from the second-level cache, and from beyond it
_FAR_LINE = 8.0
_PAGE = 4096
_LINE = 64
_CROWDED = 8  # lines in one set that leave no room for the weights
_UNFUSED = 2.0  # slots of a product and an addition
_START = 100.0  # a tile's first and last steps, and finding out where it is
_RUN = 2.0  # a position's results beside which other panels' will lie: lines are written in pieces
_HALF = 0.5  # of both for sums that lie apart, which are half as many results
_CODE = 1000.0  # of each kind of tile, which are fetched once
_STORE = 3.0  # clearing and storing a vector of sums
_MISFIT = 1.02  # weights from far that are not fetched ahead, an image read again for near ones
_CASES = 1.05  # several rows per tile: more cases in the code
# Where instructions overwrite an operand, so many start in a slot; a copied word costs half of one
# more. Tiles' ends overlap with what is slow about them, but for these slots of a vector of sums.
_STARTED, _COPY, _END = 2.78, 0.5, 2.25
_ALONE = 35.0  # and these of a tile of one position
_PIECE, _FAR_PIECE = 5.0, 14.0  # a position's line of results, which several panels write in turns
_FAR_MISFIT = 1.05  # as `_MISFIT`: narrow panels ask for weights more often
_FAR = 4  # times `middle`, from which on they do
_WAIT = 6.0  # as `_LATENCY`: an addition alone


def tile_cost(shape: Geometry, knobs: ConvKnobs, target: Target, lanes: int, dot: Dot) -> float:
    """Estimated cost of the whole convolution on one core, times how unevenly cores share it."""
    product = dot.cost if dot.intrinsic or target.fma else _UNFUSED
    return _Estimate(shape, knobs, target, lanes, product).total


@dataclass(frozen=True)
class _Estimate:
    shape: Geometry
    knobs: ConvKnobs
    target: Target
    lanes: int
    product: float  # slots of a vector of products

    @property
    def vectors(self) -> int:
        """Vectors of a group's output channels."""
        return -(-self.shape.outputs // self.lanes)

    @property
    def vector_bytes(self) -> int:
        """Weights of one vector of output channels."""
        return self.shape.taps * self.shape.inputs * self.lanes * self._word

    @property
    def _word(self) -> int:
        """Bytes of a word."""
        return 4 * self.knobs.sums

    @property
    def _in_place(self) -> bool:
        """Whether products are made where an operand was."""
        return overwrites(self.target) and self.product == _UNFUSED

    @cached_property
    def near(self) -> int:
        """Bytes of weights that stay in the first-level cache."""
        return self.target.cache("l1", 1 << 15) // 2

    @cached_property
    def middle(self) -> int:
        """Bytes of weights that stay in the second-level cache."""
        return self.target.cache("l2", 1 << 18) // 2

    @cached_property
    def columns(self) -> list[tuple[Phase, int]]:
        """Tiles along the last axis."""
        axis = self.shape.axes[-1]
        return [(phase, n) for phase in axis for n in pieces(phase.count, self.knobs.columns)]

    @cached_property
    def rows(self) -> list[int]:
        """Tiles along the axis before, where they have several rows."""
        if self.knobs.rows == 1:
            return [1]
        return [n for phase in self.shape.axes[-2] for n in pieces(phase.count, self.knobs.rows)]

    @property
    def total(self) -> float:
        """The estimate."""
        shape, knobs = self.shape, self.knobs
        outer = shape.axes[: -1 if knobs.rows == 1 else -2]
        repeats = shape.batch * shape.groups * math.prod(sum(p.count for p in a) for a in outer)
        tiles = repeats // shape.groups * len(self.rows) * len(self.columns)
        uneven = self._uneven(tiles)
        whole = self.vector_bytes * self.vectors * shape.groups
        far = whole > self.middle
        misfit = _MISFIT if (knobs.order is Order.WEIGHTS) is not far else 1.0
        if self._in_place and whole > _FAR * self.middle and knobs.order is Order.IMAGE:
            misfit = _FAR_MISFIT
        kinds = len(set(self.rows)) * len(set(self.columns)) * len(set(self._widths))
        image = self._image() * repeats
        image *= _CASES if knobs.rows > 1 and not self._in_place else 1.0
        return image * uneven * misfit + _CODE * kinds

    def _uneven(self, tiles: int) -> float:
        """The busiest core's part of the vectors, over an even part; `tiles` are those of a panel.

        Cores take equal numbers of items, one after another; those of a last panel may be narrow.
        """
        cores, widths = self.target.cores, list(self._widths)
        each = tiles if self.knobs.order is Order.WEIGHTS else 1
        items = tiles * len(widths)
        share = -(-items // cores)
        # Vectors of the items before each core's first.
        before = [_sum_to(widths, each, min(items, core * share)) for core in range(cores + 1)]
        most = max(high - low for low, high in pairwise(before))
        return max(most * cores / before[-1], self._uneven_rows)

    @property
    def _uneven_rows(self) -> float:
        """The same of rows, where a core has all panels of its own."""
        heights, cores = self.rows, self.target.cores
        if self.knobs.order is Order.WEIGHTS or len(heights) < cores:
            return 1.0
        ends = [core * len(heights) // cores for core in range(cores + 1)]
        return max(sum(heights[low:high]) for low, high in pairwise(ends)) * cores / sum(heights)

    @property
    def _widths(self) -> Iterator[int]:
        """Vectors of each panel."""
        for _ in range(self.shape.groups):
            left = self.vectors
            while left > 0:
                yield min(left, self.knobs.vectors)
                left -= self.knobs.vectors

    def _image(self) -> float:
        """All tiles of one group and one place along the outer axes."""
        full, rest = divmod(self.vectors, self.knobs.vectors)
        widths = [(self.knobs.vectors, full), (rest, 1)] if rest else [(self.knobs.vectors, full)]
        shape, cost = self.shape, 0.0
        for height, (phase, width), (vectors, times) in product(self.rows, self.columns, widths):
            steps = max(1, shape.taps * shape.inputs * phase.taps // max(1, shape.kernel[-1]))
            step = self._step(phase, height * width, vectors)
            cost += times * (step * steps + self._ends(height * width, vectors))
        return cost

    def _ends(self, positions: int, vectors: int) -> float:
        """What a tile takes beside its steps."""
        sums = self.knobs.sums
        if self._in_place:
            alone = _ALONE if positions == 1 else 0.0
            results = positions * -(-vectors // sums)
            return _END * sums * results + self._piece(vectors) * positions + alone
        ends = _STORE * positions * vectors + _START
        ends += _RUN * positions if self.vectors > vectors else 0.0
        return ends * (_HALF if sums > 1 else 1.0)

    def _piece(self, vectors: int) -> float:
        """Slots to get a line back that other panels write, too, from where it stayed meanwhile."""
        if vectors * self.lanes * 4 >= _LINE:
            return 0.0
        places = self.shape.results
        if self.knobs.order is Order.IMAGE:
            places = sum(phase.count for phase in self.shape.axes[-1])
        held = places * self.shape.groups * self.shape.outputs * 4
        if held <= self.target.cache("l1", 1 << 15):
            return 0.0
        return _PIECE if held <= self.middle else _FAR_PIECE

    def _step(self, phase: Phase, positions: int, vectors: int) -> float:
        """One input channel at one tap: `positions` elements times `vectors` vectors."""
        products = self._products(positions, vectors)
        crowded = self._crowd(phase, positions) > _CROWDED
        loads = positions * (2.0 if crowded else 1.0) + vectors
        latency = _WAIT if self._in_place else _LATENCY
        return max(products, loads, latency, self._fetch * vectors) + 0.02 * (products + loads)

    def _products(self, positions: int, vectors: int) -> float:
        """Slots until all are started."""
        if not self._in_place:
            return positions * vectors * self.product
        word = 1 if self.knobs.sums > 1 else 2  # a load, and a shuffle
        copies = vectors - 1
        each = word + copies + 2 * vectors
        weights = vectors if positions > 1 else 0  # used once, they are operands in memory
        return (positions * (each + _COPY * copies) + weights + 1) / _STARTED

    def _crowd(self, phase: Phase, positions: int) -> int:
        """How many positions of a tile fall into one set of the first-level cache, 4 KiB apart."""
        if not self.shape.channels_last:
            return 1
        step = self.shape.channels * phase.move * self._word
        return -(-positions * math.gcd(step, _PAGE) // _PAGE)

    @cached_property
    def _fetch(self) -> float:
        """Slots until a vector of weights is there, from the cache that keeps it between tiles."""
        far, middling = (c * self.target.vector_bits / 512 for c in (_FAR_LINE, _L2_LINE))
        panel = self.vector_bytes * self.knobs.vectors
        whole = self.vector_bytes * self.vectors * self.shape.groups
        if self.knobs.order is Order.WEIGHTS:
            first = far if panel > self.middle else middling
            return 0.0 if panel <= self.near else first
        # Every row takes all panels in turn, and its tiles share a panel while it is near.
        first = far if whole > self.middle else middling
        if whole <= self.near:
            return 0.0
        if panel <= self.near:
            return first / len(self.columns)
        return first if panel > self.middle else middling + (first - middling) / len(self.columns)


def _sum_to(widths: Sequence[int], each: int, items: int) -> int:
    """Sum of the first `items` of all widths again and again, of each `each` in a row."""
    sums = list(accumulate(widths, initial=0))
    rounds, rest = divmod(items, each * len(widths))
    whole, part = divmod(rest, each)
    more = part * widths[whole] if part else 0
    return rounds * each * sums[-1] + each * sums[whole] + more
