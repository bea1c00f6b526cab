"""Loop nests over an iteration space: axes merged or split, shared among threads, in vectors.

Axes that walk through memory as one are merged, axes that indices divide are split, so that a nest
has few, long loops with constant strides. Vector loops have a remainder of smaller vectors, never a
mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.templates.accesses import Condition, Walk, axes_of, walk
from optc.backends.tvm.templates.loops import FORK_CYCLES, Code, as_index
from optc.ir.targets.target import Target

_ITEMS_PER_CORE = 4  # parallel iterations wanted, so that contiguous shares come out even
_TILE = 16  # rows of a transposing tile: a cache line of f32
_NEAR = 4  # strides up to this still use a good part of each cache line

Point = Callable[[Code, Sequence[Expr]], Expr | Sequence[Expr]]


@dataclass(frozen=True)
class Loop:
    """A loop over several axes of the iteration space run as one, or over part of one axis.

    Stepping by one moves `axis` by `step`; other axes merged into it stay at 0 and the last one
    runs past its extent, which linear indices bear.
    """

    extent: int
    axis: int
    step: int = 1


@dataclass(frozen=True)
class Space:
    """An iteration space as loops, outermost first, and what a point of it does."""

    rank: int
    loops: tuple[Loop, ...]
    strides: tuple[tuple[int | None, ...], ...]  # of each load, by loop
    operations: int
    width: int = 1  # bytes of the widest element that is loaded
    conditions: tuple[Condition, ...] = ()  # of guarded loads, by loop

    def cuts(self, loop: int) -> list[int] | None:
        """Where conditions may change along a loop, sorted, ends included.

        None when they change elsewhere for other values of other loops: no vectors then.
        """
        extent = self.loops[loop].extent
        found = {0, extent}
        for condition in self.conditions:
            places = condition.cuts(loop)
            if places is None:
                return None
            found.update(place for place in places if 0 < place < extent)
        return sorted(found)

    def index(self, values: Sequence[Expr | int]) -> list[Expr]:
        """Index of the point at these values of the loops."""
        result: list[Expr] = [as_index(0)] * self.rank
        for loop, value in zip(self.loops, values, strict=True):
            result[loop.axis] = result[loop.axis] + as_index(value) * loop.step
        return result


def space_of(extents: Sequence[int], point: Point, keep: int | None = None) -> Space:
    """Analyse `point(code, index)`; loops never merge across place `keep` (spatial | reduced).

    The result of `point` must be stored row-major in the axes' order.
    """
    loops = [Loop(extent, axis) for axis, extent in enumerate(extents) if extent != 1]
    while True:
        space = Space(len(extents), tuple(loops), (), 0)
        seen = _walked(space, point)
        if not seen.splits:
            return _merged(space, seen, keep)
        for place in sorted(seen.splits, reverse=True):
            loop, by = loops[place], seen.splits[place]
            outer = Loop(loop.extent // by, loop.axis, loop.step * by)
            loops[place : place + 1] = [outer, Loop(by, loop.axis, loop.step)]


def _walked(space: Space, point: Point) -> Walk:
    axes = axes_of([loop.extent for loop in space.loops])
    return walk(axes, lambda code: point(code, space.index([axis.var for axis in axes])))


def _merged(space: Space, seen: Walk, keep: int | None) -> Space:
    loops: list[Loop] = []
    strides: list[list[int | None]] = []
    fixed: list[bool] = []
    kept: list[int] = []
    for place, loop in enumerate(space.loops):
        here = [access.strides[place] for access in seen.accesses]
        split = sum(other.axis == loop.axis for other in space.loops) > 1
        stuck = place in seen.fixed or split
        free = loops and not stuck and not fixed[-1] and not _crosses(loops[-1], loop, keep)
        if free and all(map(_continues, strides[-1], here, [loop.extent] * len(here))):
            loops[-1] = Loop(loops[-1].extent * loop.extent, loop.axis, loop.step)
            strides[-1] = here
            continue
        loops.append(loop)
        strides.append(here)
        fixed.append(stuck)
        kept.append(place)
    by_access = tuple(zip(*strides, strict=True)) if strides else ()
    width = max((access.bytes for access in seen.accesses), default=1)
    conditions = tuple(
        Condition(tuple(condition.steps[place] for place in kept), condition.offset)
        for condition in seen.conditions
    )
    return Space(space.rank, tuple(loops), by_access, seen.operations, width, conditions)


def _continues(outer: int | None, inner: int | None, extent: int) -> bool:
    """Whether a step of the outer loop goes on where the inner loop of that extent ends."""
    return outer is not None and inner is not None and outer == inner * extent


def _crosses(outer: Loop, inner: Loop, keep: int | None) -> bool:
    return keep is not None and outer.axis < keep <= inner.axis


def pieces(extent: int, lanes: int) -> Iterator[tuple[int, int]]:
    """(start, lanes) of the vectors that cover what whole vectors of `lanes` leave of `extent`."""
    at, left = extent - extent % lanes, extent % lanes
    while left:
        size = 1 << (left.bit_length() - 1)
        yield at, size
        at, left = at + size, left - size


def each_vector(code: Code, extent: int, lanes: int, body: Callable[[Expr], None]) -> None:
    """`body(i)` for 0 <= i < extent, in vectors of `lanes` and a remainder of shorter ones."""
    blocks = extent // lanes
    if blocks:
        with code.loop("block", blocks) as block, code.vector("lane", lanes) as lane:
            body(block * lanes + lane)
    for start, size in pieces(extent, lanes):
        with code.vector("lane", size) as lane:
            body(start + lane)


@dataclass(frozen=True)
class Sharing:
    """The first `taken` loops and `parts` parts of the last one make one parallel loop."""

    taken: int
    parts: int
    cycles: float


def for_each_point(
    code: Code, space: Space, machine: Target, width: int, point: Callable[[list[Expr]], None]
) -> None:
    """Run `point(index)` over the space: shared among threads, the last loop in vectors.

    `width` is the size in bytes of the widest element that is read or written.
    """
    extents = [loop.extent for loop in space.loops]
    if 0 in extents:
        return
    if not extents:
        point(space.index([]))
        return
    lanes = max(1, machine.vector_bits // 8 // width)
    cuts = space.cuts(len(extents) - 1)
    if cuts is None:  # a guarded load has no vector form
        lanes, cuts = 1, [0, extents[-1]]
    partner = _partner(space) if len(cuts) == 2 else None
    cycles = points_cycles(space, lanes if partner is None else 1)
    sharing = _sharing(extents, partner, lanes, cycles, machine.cores, len(cuts) == 2)
    if partner is None:
        _in_rows(code, space, lanes, sharing, cuts, point)
    else:
        _in_tiles(code, space, lanes, sharing, partner, point)


def points_cycles(space: Space, lanes: int) -> float:
    """Estimated cycles for all points: a vector's loads and operations start two per cycle."""
    points = math.prod(loop.extent for loop in space.loops)
    return points * (space.operations + len(space.strides) + 1) / (2 * lanes)


def _sharing(
    extents: Sequence[int],
    partner: int | None,
    lanes: int,
    cycles: float,
    cores: int,
    divisible: bool,
) -> Sharing:
    if cycles <= FORK_CYCLES or cores == 1:
        return Sharing(0, 1, 0.0)  # no work to share, however much there is
    most = len(extents) - 1 if partner is None else partner
    taken = 0
    while taken < most and math.prod(extents[:taken]) < _ITEMS_PER_CORE * cores:
        taken += 1
    shared = math.prod(extents[:taken])
    parts = -(-_ITEMS_PER_CORE * cores // shared)
    if partner is not None or not divisible or parts < 2 or extents[-1] < parts * lanes:
        return Sharing(taken, 1, cycles)
    return Sharing(taken, parts, cycles)


def _in_rows(
    code: Code,
    space: Space,
    lanes: int,
    sharing: Sharing,
    cuts: Sequence[int],
    point: Callable[[list[Expr]], None],
) -> None:
    *outer, inner = (loop.extent for loop in space.loops)
    shared = math.prod(outer[: sharing.taken])
    size = inner // (sharing.parts * lanes) * lanes if sharing.parts > 1 else inner
    done = size * sharing.parts
    ranges = [(0, size)] if sharing.parts > 1 else list(pairwise(cuts))
    with code.shared("item", shared * sharing.parts, sharing.cycles) as item:
        row = tirx.floordiv(item, sharing.parts)
        start = tirx.floormod(item, sharing.parts) * size
        first = unravel(code, row, outer[: sharing.taken])
        with nested(code, outer[sharing.taken :]) as rest:
            for low, high in ranges:
                begin = start + low

                def row_point(i: Expr, begin: Expr = begin, rest: list[Expr] = rest) -> None:
                    point(space.index([*first, *rest, begin + i]))

                each_vector(code, high - low, lanes, row_point)
    if done < inner:
        with nested(code, outer) as rest:
            each_vector(code, inner - done, lanes, lambda i: point(space.index([*rest, i + done])))


def _in_tiles(
    code: Code,
    space: Space,
    lanes: int,
    sharing: Sharing,
    partner: int,
    point: Callable[[list[Expr]], None],
) -> None:
    """Square tiles of the last loop and `partner`, so that lines read across are used whole."""
    *outer, inner = (loop.extent for loop in space.loops)
    taken, tall = sharing.taken, outer[partner]
    shared = math.prod(outer[:taken])
    strips = -(-tall // _TILE)
    with code.shared("item", shared * strips, sharing.cycles) as item:
        first = unravel(code, tirx.floordiv(item, strips), outer[:taken])
        start = code.bind(tirx.floormod(item, strips) * _TILE, "start")
        height = code.bind(tirx.min(as_index(_TILE), tall - start), "height")
        between, after = outer[taken:partner], outer[partner + 1 :]
        with nested(code, between) as middle, nested(code, after) as last:

            def tile(first_column: Expr | int, size: int) -> None:
                with code.loop("row", height) as row, code.vector("lane", size) as lane:
                    values = [*first, *middle, start + row, *last, first_column + lane]
                    point(space.index(values))

            if inner >= lanes:
                with code.loop("block", inner // lanes) as block:
                    tile(block * lanes, lanes)
            for at, size in pieces(inner, lanes):
                tile(at, size)


def _partner(space: Space) -> int | None:
    """The loop along which a load that jumps in the last loop goes from neighbour to neighbour."""
    for strides in space.strides:
        *outer, inner = strides
        if inner is not None and abs(inner) > _NEAR:
            for place, stride in enumerate(outer):
                if stride is not None and abs(stride) == 1 and space.loops[place].extent > 1:
                    return place
    return None


@contextmanager
def nested(code: Code, extents: Sequence[int]) -> Iterator[list[Expr]]:
    """Serial loops inside one another."""
    with ExitStack() as stack:
        yield [stack.enter_context(code.loop(f"i{n}", e)) for n, e in enumerate(extents)]


def unravel(code: Code, item: Expr, extents: Sequence[int]) -> list[Expr]:
    """Index of the `item`-th point, row-major, each coordinate computed once."""
    index: list[Expr] = []
    for extent in reversed(extents[1:]):
        index.append(code.bind(tirx.floormod(item, extent), "i"))
        item = tirx.floordiv(item, extent)
    return [code.bind(item, "i"), *reversed(index)] if extents else []


def digits_of(code: Code, item: Expr, radices: Sequence[int]) -> list[Expr]:
    """As `unravel`, where most extents may be 1: those take no instructions."""
    found: list[Expr] = []
    for radix in reversed(radices[1:]):
        digit: Expr = as_index(0)
        if radix > 1:
            digit = code.bind(tirx.floormod(item, radix), "digit")
            item = code.bind(tirx.floordiv(item, radix), "rest")
        found.append(digit)
    return [item if radices[0] > 1 else as_index(0), *reversed(found)]
