"""Loops of a reduction: `out[spatial] = fold over reduced axes of source`, for any TE reducer.

Folding runs in many vector accumulators: no addition waits for the one before it, and float sums
are more exact than a running sum. Two forms:

- across: neighbours in memory are different results; each lane folds its own.
- along: neighbours in memory belong to one result; lanes fold parts of it, joined at the end.

A fold with few results is cut into parts that threads fold side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tvm
from tvm import te, tirx
from tvm.ir import Expr, Var
from tvm.tirx import Buffer

from optc.backends.tvm.templates.elements import Elements, Key, Read
from optc.backends.tvm.templates.loops import FORK_CYCLES, Code, as_index
from optc.backends.tvm.templates.nest import (
    Space,
    nested,
    pieces,
    points_cycles,
    space_of,
    unravel,
)
from optc.ir.targets.target import Target

# A running sum of more terms than twice this loses digits; parts of it are summed on their own.
_MOST_TERMS = 1024


@dataclass(frozen=True)
class Fold:
    """A reducer over tuples of values: identity and combination."""

    reducer: tirx.CommReducer
    dtypes: tuple[str, ...]

    def start(self) -> list[Expr]:
        """The identity of each value."""
        return list(self.reducer.identity_element)

    def join(self, left: Sequence[Expr], right: Sequence[Expr]) -> list[Expr]:
        """The combination of two tuples."""
        places: dict[Var, Expr] = dict(zip(self.reducer.lhs, left, strict=True))
        places.update(zip(self.reducer.rhs, right, strict=True))

        return [Elements({}).expression(value, places) for value in self.reducer.result]


def fold_of(op: te.ComputeOp) -> Fold:
    """The reducer of a TE reduction."""
    reducer = op.body[0].combiner
    return Fold(reducer, tuple(str(item.ty.dtype) for item in reducer.identity_element))


Write = Callable[[Sequence[Expr], Sequence[Expr]], None]


def emit_fold(
    code: Code,
    op: te.ComputeOp,
    prefix: Sequence[Expr],
    write: Write,
    sources: Mapping[Key, Read],
    machine: Target,
) -> None:
    """Loops that fold `op`, whose leading axes stand at `prefix`.

    `write(index, values)` takes the index along the other axes and one value for each of the
    reducer's. Loops are shared among threads if the machine has several cores.
    """
    spatial, reduced = list(op.axis)[len(prefix) :], list(op.reduce_axis)
    fixed = {axis.var: at for axis, at in zip(op.axis, prefix, strict=False)}
    variables = [axis.var for axis in (*spatial, *reduced)]

    def source(block: Code, index: Sequence[Expr]) -> list[Expr]:
        places = {**fixed, **dict(zip(variables, index, strict=True))}
        elements = Elements(sources, block)
        return [elements.expression(value, places) for value in op.body[0].source]

    extents = [int(axis.dom.extent) for axis in (*spatial, *reduced)]
    space = space_of(extents, source, keep=len(spatial))
    _FoldNest(code, fold_of(op), write, source, machine, space, len(spatial)).run()


class _FoldNest:
    def __init__(
        self,
        code: Code,
        fold: Fold,
        write: Write,
        source: Callable[[Code, Sequence[Expr]], list[Expr]],
        machine: Target,
        space: Space,
        rank: int,
    ) -> None:
        self.code, self.fold, self.write, self.source = code, fold, write, source
        self.machine, self.space, self.rank = machine, space, rank
        self.count = sum(loop.axis < rank for loop in space.loops)
        extents = [loop.extent for loop in space.loops]
        self.spatial, self.reduced = extents[: self.count], extents[self.count :]
        width = max(tvm.DataType(dtype).bits for dtype in fold.dtypes)
        self.lanes = max(1, machine.vector_bits // max(width, 8))
        if self._is_guarded(self.count - 1 if self._is_across() else len(extents) - 1):
            self.lanes = 1
        self.cycles = points_cycles(space, self.lanes) if machine.cores > 1 else 0.0

    def run(self) -> None:
        """Emit the loops."""
        if 0 in self.spatial:
            return
        if self.reduced:
            longest = max(range(len(self.reduced)), key=lambda n: self.reduced[n])
            parts = min(self._parts(longest), self.reduced[longest] // (4 * self.lanes))
            if parts > 1:
                self._in_parts(longest, parts)
                return
        self._whole(lambda values: values, self.reduced, self._store)

    def _parts(self, place: int) -> int:
        """Into how many parts to cut a loop: for idle threads, and for sums of very many terms."""
        wanted, cores = 1, self.machine.cores
        if math.prod(self.spatial) < 2 * cores and self.cycles > 2 * FORK_CYCLES and cores > 1:
            wanted = 2 * cores
        along = not self._is_across() and place == len(self.reduced) - 1
        terms = self.reduced[place] // (4 * self.lanes if along else 1)
        return max(wanted, terms // _MOST_TERMS)

    def _in_parts(self, place: int, parts: int) -> None:
        """Fold parts of one reduced loop side by side, then the parts."""
        code, extent = self.code, self.reduced[place]
        size = extent // (parts * self.lanes) * self.lanes
        rest = extent - size * parts
        shape = (parts + (rest > 0), math.prod(self.spatial))
        partial = [code.scratch("partial", shape, t, "global") for t in self.fold.dtypes]

        def piece(part: Expr, start: Expr, length: int) -> None:
            lengths = [*self.reduced[:place], length, *self.reduced[place + 1 :]]

            def moved(values: list[Expr]) -> list[Expr]:
                shifted = values[place] + start
                return [*values[:place], shifted, *values[place + 1 :]]

            def keep(values: Sequence[Expr], results: Sequence[Expr]) -> None:
                at = _row_major(values, self.spatial)
                for buffer, result in zip(partial, results, strict=True):
                    code.store(buffer, (part, at), result)

            self._whole(moved, lengths, keep, share=False)

        with code.parallel("part", parts) as part:
            piece(part, part * size, size)
        if rest:
            piece(as_index(parts), as_index(parts * size), rest)
        with nested(code, self.spatial) as values:
            at = _row_major(values, self.spatial)
            total = [code.bind(buffer[0, at], "total") for buffer in partial]
            for part in range(1, shape[0]):
                joined = self.fold.join(total, [buffer[part, at] for buffer in partial])
                total = [code.bind(value, "total") for value in joined]
            self._store(values, total)

    def _store(self, values: Sequence[Expr], results: Sequence[Expr]) -> None:
        zeros = [as_index(0)] * len(self.reduced)
        self.write(self.space.index([*values, *zeros])[: self.rank], results)

    def _whole(
        self,
        moved: Callable[[list[Expr]], list[Expr]],
        lengths: Sequence[int],
        keep: Callable[[Sequence[Expr], Sequence[Expr]], None],
        share: bool = True,
    ) -> None:
        """Fold over reduced loops of `lengths` for every result, handing results to `keep`."""
        cycles = self.cycles if share else 0.0
        if self._is_across():
            self._across(moved, lengths, keep, cycles)
            return
        items = math.prod(self.spatial)
        with self.code.shared("item", items, cycles) as item:
            values = unravel(self.code, item, self.spatial)
            keep(values, self._along(values, moved, lengths))

    def _is_across(self) -> bool:
        if not self.spatial or not self.reduced:
            return bool(self.spatial)
        last = len(self.space.loops) - 1
        guarded = self._is_guarded(self.count - 1), self._is_guarded(last)
        if guarded[0] != guarded[1]:
            return guarded[1]
        across, along = self._jumps(self.count - 1), self._jumps(last)
        if across != along:
            return across < along
        long: bool = self.spatial[-1] >= self.lanes
        return long

    def _is_guarded(self, loop: int) -> bool:
        """Whether a guard of a load changes along a loop: such loads have no vector form."""
        return any(condition.steps[loop] != 0 for condition in self.space.conditions)

    def _jumps(self, loop: int) -> int:
        """Loads that do not go from neighbour to neighbour along a loop."""
        strides = [access[loop] for access in self.space.strides]
        return sum(stride is None or abs(stride) > 1 for stride in strides)

    def _along(
        self,
        values: Sequence[Expr],
        moved: Callable[[list[Expr]], list[Expr]],
        lengths: Sequence[int],
    ) -> list[Expr]:
        if not lengths:  # all reduced extents are 1: the only element is the result
            return self.source(self.code, self.space.index(list(values)))
        code, inner = self.code, lengths[-1]
        lanes = min(self.lanes, 1 << (inner.bit_length() - 1)) if inner else 1
        groups = max(n for n in (1, 2, 4) if n == 1 or n * lanes <= inner)
        sums = [code.scratch("folded", (groups * lanes,), dtype) for dtype in self.fold.dtypes]
        for group in range(groups):
            with code.vector("lane", lanes) as lane:
                self._write(sums, group * lanes + lane, self.fold.start())

        def step(place: Expr | int, rest: Sequence[Expr], where: Expr) -> None:
            index = self.space.index([*values, *moved([*rest, as_index(0) + place])])
            now = [buffer[where] for buffer in sums]
            self._write(sums, where, self.fold.join(now, self.source(code, index)))

        self._steps_along(lengths, lanes, groups, step)
        for group in range(1, groups):
            with code.vector("lane", lanes) as lane:
                other = [buffer[group * lanes + lane] for buffer in sums]
                self._write(sums, lane + 0, self.fold.join([b[lane] for b in sums], other))
        return self._across_lanes(sums, lanes)

    def _steps_along(
        self,
        lengths: Sequence[int],
        lanes: int,
        groups: int,
        step: Callable[[Expr | int, Sequence[Expr], Expr], None],
    ) -> None:
        """`step(element, outer indices, accumulator)` over all elements of a result."""
        code, (*outer, inner) = self.code, lengths
        with nested(code, outer) as rest:
            blocks, left = divmod(inner, groups * lanes)
            if blocks:
                with code.loop("block", blocks) as block:
                    for group in range(groups):
                        with code.vector("lane", lanes) as lane:
                            at = group * lanes + lane
                            step(block * (groups * lanes) + at, rest, at)
            done = blocks * groups * lanes
            for start in range(done, done + left // lanes * lanes, lanes):
                with code.vector("lane", lanes) as lane:
                    step(start + lane, rest, lane + 0)
            for start, size in pieces(inner, lanes):
                with code.vector("lane", size) as lane:
                    step(start + lane, rest, lane + 0)

    def _across_lanes(self, sums: Sequence[Buffer], lanes: int) -> list[Expr]:
        """Join the first `lanes` values pairwise.

        Every halving has arrays of its own: LLVM takes seconds over one that is read in vectors of
        many lengths.
        """
        code = self.code
        while lanes > 1:
            lanes //= 2
            halves = [code.scratch("half", (lanes,), dtype) for dtype in self.fold.dtypes]
            with code.vector("lane", lanes) as lane:
                now = [buffer[lane] for buffer in sums]
                other = [buffer[lane + lanes] for buffer in sums]
                self._write(halves, lane + 0, self.fold.join(now, other))
            sums = halves
        return [code.bind(buffer[0], "folded") for buffer in sums]

    def _across(
        self,
        moved: Callable[[list[Expr]], list[Expr]],
        lengths: Sequence[int],
        keep: Callable[[Sequence[Expr], Sequence[Expr]], None],
        cycles: float,
    ) -> None:
        code, (*outer, inner) = self.code, self.spatial
        groups = max(n for n in (1, 2, 4) if n == 1 or n * self.lanes <= inner)
        block = groups * self.lanes
        items = math.prod(outer)

        def columns(first: Sequence[Expr], start: Expr, parts: Sequence[tuple[int, int]]) -> None:
            width = sum(size for _, size in parts)
            sums = [code.scratch("folded", (width,), dtype) for dtype in self.fold.dtypes]
            for at, size in parts:
                with code.vector("lane", size) as lane:
                    self._write(sums, at + lane, self.fold.start())
            with nested(code, lengths) as rest:
                for at, size in parts:
                    with code.vector("lane", size) as lane:
                        values = [*first, start + (at + lane), *moved(rest)]
                        now = [buffer[at + lane] for buffer in sums]
                        fresh = self.source(code, self.space.index(values))
                        self._write(sums, at + lane, self.fold.join(now, fresh))
            for at, size in parts:
                with code.vector("lane", size) as lane:
                    keep([*first, start + (at + lane)], [buffer[at + lane] for buffer in sums])

        blocks, left = divmod(inner, block)
        if blocks:
            with code.shared("item", items * blocks, cycles) as item:
                first = unravel(code, tirx.floordiv(item, blocks), outer)
                start = code.bind(tirx.floormod(item, blocks) * block, "start")
                columns(first, start, [(n * self.lanes, self.lanes) for n in range(groups)])
        if left:
            tail = [(n, self.lanes) for n in range(0, left // self.lanes * self.lanes, self.lanes)]
            tail += list(pieces(left, self.lanes))
            with code.shared("item", items, cycles * left / inner) as item:
                columns(unravel(code, item, outer), as_index(blocks * block), tail)

    def _write(self, buffers: Sequence[Buffer], at: Expr, values: Sequence[Expr]) -> None:
        # All values first: the combination of one may read the others.
        ready = [self.code.bind(value, "joined") for value in values]
        for buffer, value in zip(buffers, ready, strict=True):
            self.code.store(buffer, (at,), value)


def _row_major(values: Sequence[Expr], extents: Sequence[int]) -> Expr:
    place: Expr = as_index(0)
    for value, extent in zip(values, extents, strict=True):
        place = place * extent + value
    return place
