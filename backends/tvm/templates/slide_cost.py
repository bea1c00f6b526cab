"""Which tile a window within its channel takes: cycles by what binds, and lines that caches move.

Calibrated on Zen 5. Registers hold sums and a row of inputs; inputs come from the second-level
cache once if what a block of channels keeps between rows of tiles fits the first level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.slide_knobs import WRITTEN_OUT, Share, SlideKnobs
from optc.backends.tvm.templates.taps import axis_runs, pieces
from optc.ir.targets.target import Target

_NEAR_LINE = 0.1  # cycles of a line from the second-level cache
_FAR_LINE = 1.6  # and more, from beyond it
_AGAIN = 3.0  # and more, of one that a row of tiles above read, too, if much comes from beyond it
_APART = 0.6  # and more, if the next line is not the next one read
_WEIGHT = 0.25  # of an input: weights stay in the first level
_LOAD = 0.4  # cycles of a load that multiplications do not hide
_SWEEP = 5.0  # to find out where the tiles of a block are
_WIDER = 5.0  # for each doubling of a block: fewer of its lines are fetched in pairs
_AS_WIDE = 1.0  # if tiles are as wide as the image
_ALONE = 1.12  # a row by itself, of too few sums to keep adders busy
_BUSY = 12  # sums that do
_CROWDED = 1.15  # more sums leave too few registers to what they meet
_MANY = 14  # are more
_CODE = 0.35  # cycles to fetch a multiply-add of code, for the first time since other kernels ran
_FOREIGN = 1.2  # convolutions before and after share out something else: other cores hold the input
_NARROWER = 6  # channels of a convolution before or after, as a divisor of these
_FEW_TAPS = 9  # of more, cores that share out channels each fetch too much code for the borders
_FULL = 0.7  # of the first level, that a block may take
_BLOCKS = (2, 4, 8, 16)
_ROWS = (1, 2, 3, 4)


def candidates(
    shape: Geometry, target: Target, lanes: int, one_by_one: bool = False
) -> list[SlideKnobs]:
    """Tiles that fit the registers, by rising cost; see `Fold` for inputs taken one by one."""
    estimate = _Estimate(shape, target, lanes, one_by_one)
    widest = max(phase.count for phase in shape.axes[-1])
    tallest = max(phase.count for phase in shape.axes[-2]) if len(shape.axes) > 1 else 1
    limit = target.vector_registers // 2
    whole = max(1, shape.channels // lanes)
    found: set[SlideKnobs] = set()
    for rows in (rows for rows in _ROWS if rows <= tallest):
        for most in range(2, max(2, limit // rows) + 1):
            columns = max(pieces(widest, most))
            if columns * rows > limit + 2 or (columns * rows * 3 < limit and columns < widest):
                continue
            for block in {min(block, whole) for block in (*_BLOCKS, whole)}:
                found |= {SlideKnobs(rows, columns, block, share) for share in Share}
    return sorted(found, key=lambda knobs: (estimate.cycles(knobs), repr(knobs)))


@dataclass(frozen=True)
class _Estimate:
    shape: Geometry
    target: Target
    lanes: int
    one_by_one: bool

    @cached_property
    def move(self) -> tuple[int, int]:
        """Inputs from a row, and a column, to the next."""
        last = self.shape.axes[-1][0].move
        return (self.shape.axes[-2][0].move if len(self.shape.axes) > 1 else 1), last

    @cached_property
    def reach(self) -> tuple[int, int]:
        """Inputs that a row and a column of taps span."""
        spans = [(a[0].taps - 1) * a[0].gap + 1 for a in self.shape.axes]
        return (spans[-2] if len(spans) > 1 else 1), spans[-1]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Output rows and columns."""
        counts = [sum(phase.count for phase in phases) for phases in self.shape.axes]
        return (counts[-2] if len(counts) > 1 else 1), counts[-1]

    @cached_property
    def _far(self) -> float:
        """The share of inputs and outputs that the second-level cache does not hold."""
        places = math.prod(self.size) * (self.move[0] * self.move[1] + 1)
        each = places * self.shape.channels * 4 // self.target.cores
        return max(0.0, 1 - self.target.cache("l2", 1 << 18) / each)

    def cycles(self, knobs: SlideKnobs) -> float:
        """Estimated cycles of the busiest core for one image."""
        shape = self.shape
        vectors = -(-shape.channels // self.lanes)
        outer = shape.batch * math.prod(sum(p.count for p in a) for a in shape.axes[:-2])
        work = outer * vectors * self._vector(knobs) * self._uneven(knobs, vectors)
        return work + self._code(knobs)

    def _uneven(self, knobs: SlideKnobs, vectors: int) -> float:
        cores = self.target.cores
        sizes = [1] * vectors if knobs.share is Share.CHANNELS else pieces(self.size[0], knobs.rows)
        ends = [core * len(sizes) // cores for core in range(cores + 1)]
        most = max(sum(sizes[low:high]) for low, high in pairwise(ends))
        return most / sum(sizes) * (1.0 if knobs.share is self._local else _FOREIGN)

    @cached_property
    def _local(self) -> Share:
        """What convolutions of single places before and after most likely share out."""
        channels = self.shape.channels
        weights = channels * channels // _NARROWER * 4
        far = 2 * weights > self.target.cache("l2", 1 << 18)
        return Share.CHANNELS if far and self.shape.taps <= _FEW_TAPS else Share.ROWS

    def _vector(self, knobs: SlideKnobs) -> float:
        """All tiles of one vector of channels."""
        height, width = self.size
        products = self.shape.taps * (1.0 if self.target.fma else 2.0) / 2
        tiles = -(-height // knobs.rows) * -(-width // knobs.columns)
        rows, columns = (
            (n - 1) * move + reach
            for n, move, reach in zip(
                (knobs.rows, knobs.columns), self.move, self.reach, strict=True
            )
        )
        pairs = knobs.rows * self.shape.axes[-2][0].taps if len(self.shape.axes) > 1 else 1
        loads = rows * columns + _WEIGHT * pairs * self.shape.axes[-1][0].taps
        spare = self.target.vector_registers - knobs.rows * knobs.columns
        loads += max(0, columns - spare) * pairs
        sums = knobs.rows * knobs.columns
        work = products * sums + _LOAD * loads
        work *= _ALONE if knobs.rows == 1 and sums < _BUSY else 1.0
        crowded = sums > _MANY or (columns > spare and not self.one_by_one)
        work *= _CROWDED if crowded else 1.0
        wider = _AS_WIDE if knobs.columns >= width else _WIDER
        sweep = _SWEEP / knobs.block + wider * math.log2(knobs.block) * (1 - self._far)
        return tiles * (work + sweep) + self._lines(knobs, tiles, rows, columns)

    def _code(self, knobs: SlideKnobs) -> float:
        """Cycles to fetch what is written out for each kind of tile, in every core."""
        down = axis_runs(self.shape.axes[-2], knobs.rows) if len(self.shape.axes) > 1 else [None]
        across = axis_runs(self.shape.axes[-1], knobs.columns)
        sums = knobs.rows * sum(run.size for _, run in across)
        return _CODE * min(len(down) * sums * self.shape.taps, WRITTEN_OUT)

    def _lines(self, knobs: SlideKnobs, tiles: int, rows: int, columns: int) -> float:
        """Cycles of lines that come from beyond the first-level cache."""
        height, width = self.size
        near = self.target.cache("l1", 1 << 15)
        bytes_ = 64 * knobs.block
        input_width = width * self.move[1]
        row_tiles = -(-height // knobs.rows)
        if bytes_ * (rows * input_width + knobs.rows * width) < near * _FULL:
            read = row_tiles * knobs.rows * self.move[0] * input_width
        elif bytes_ * rows * columns < near * _FULL:
            read = row_tiles * rows * input_width
        else:
            read = tiles * rows * columns
        written = 2 * height * width
        moved = (read + written) * _NEAR_LINE
        inputs = height * width * self.move[0] * self.move[1]
        again = max(0, row_tiles * rows * input_width - inputs)
        moved += again * _AGAIN * min(1.0, 2 * self._far)
        once = inputs + height * width
        apart = _APART if knobs.block < self.shape.channels // self.lanes else 0.0
        moved += once * self._far * (_FAR_LINE + apart)
        return moved * self.lanes * 4 / 64
