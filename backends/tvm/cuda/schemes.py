"""How a step's elements are shared among threads: one each, or a group of threads to a fold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.cuda.grid import WARP, Grid, ceil_div, point_of
from optc.backends.tvm.cuda.task import Step
from optc.backends.tvm.templates.accesses import axes_of, walk
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.templates.nest import nested, unravel

_THREADS = 256
_LONG = (
    32  # folded elements from which a group of threads shares them, if that keeps loads together
)
_FEW = 4096  # results below which threads would idle, if each had one


def elementwise(step: Step) -> None:
    """A thread for each element; neighbours in memory are neighbours in a warp."""
    total = math.prod(step.extents)
    grid = Grid(ceil_div(total, _THREADS), _THREADS)
    code = grid.code
    with guarded(code, point_of(grid), total, grid.blocks * _THREADS) as place:
        step.finish(code, unravel(code, place, step.extents))
    step.task.add(grid)


def fold(step: Step) -> None:
    """Results by threads, or by groups of them where one result takes many neighbours."""
    if _shares_a_result(step):
        _by_groups(step)
    else:
        _by_threads(step)


@contextmanager
def guarded(code: Code, place: Expr, extent: int, reach: int) -> Iterator[Expr]:
    """Run the block where `place` is below `extent`; no test where `reach` says it always is."""
    place = code.bind(place, "place")
    with nullcontext() if reach <= extent else code.when(place < extent):
        yield place


def _shares_a_result(step: Step) -> bool:
    length, results = math.prod(step.reduced), math.prod(step.extents)
    if length < _LONG:
        return False
    return results < _FEW or _runs_along_fold(step)


def _runs_along_fold(step: Step) -> bool:
    """Whether most loads go from neighbour to neighbour along the innermost folded axis."""
    axes = axes_of([*step.extents, *step.reduced])
    point, inner = (
        [a.var for a in axes[: len(step.extents)]],
        [a.var for a in axes[len(step.extents) :]],
    )
    loads = walk(axes, lambda code: step.terms(code, point, inner)).accesses
    folded = max((n for n, axis in enumerate(axes) if axis.extent > 1), default=0)
    along = sum(access.strides[folded] == 1 for access in loads)
    return 2 * along > len(loads)


def _by_threads(step: Step) -> None:
    total = math.prod(step.extents)
    grid = Grid(ceil_div(total, _THREADS), _THREADS)
    code = grid.code
    with guarded(code, point_of(grid), total, grid.blocks * _THREADS) as place:
        point = unravel(code, place, step.extents)
        folded = accumulators(step, code)
        with nested(code, step.reduced) as inner:
            join(step, code, folded, step.terms(code, point, inner))
        step.finish(code, point, [code.bind(buffer[0], "folded") for buffer in folded])
    step.task.add(grid)


def _by_groups(step: Step) -> None:
    length, results = math.prod(step.reduced), math.prod(step.extents)
    size = WARP
    while size < _THREADS and size * 4 <= length and results * size < _FEW * WARP:
        size *= 2
    rows = _THREADS // size
    grid = Grid(ceil_div(results, rows), _THREADS)
    code = grid.code
    lane = code.bind(tirx.floormod(grid.thread, size), "lane")
    result = code.bind(grid.block * rows + tirx.floordiv(grid.thread, size), "result")
    folded = accumulators(step, code)
    with guarded(code, result, results, grid.blocks * rows) as place:
        point = unravel(code, place, step.extents)
        strided(step, code, folded, point, lane, size)
    parts = across(step, grid, folded, lane, size)
    with code.when(tirx.all(tirx.EQ(lane, 0), result < results)):
        point = unravel(code, result, step.extents)
        step.finish(code, point, [code.bind(part[grid.thread], "folded") for part in parts])
    step.task.add(grid)


def accumulators(step: Step, code: Code) -> list[Buffer]:
    """One register for each value of the reducer, holding its identity."""
    folded = [code.scratch("folded", (1,), dtype) for dtype in step.reducer.dtypes]
    for buffer, start in zip(folded, step.reducer.start(), strict=True):
        code.store(buffer, (0,), start)
    return folded


def join(step: Step, code: Code, folded: Sequence[Buffer], terms: Sequence[Expr]) -> None:
    """Fold `terms` into the registers."""
    joined = step.reducer.join([buffer[0] for buffer in folded], terms)
    # All values first: the combination of one may read the others.
    ready = [code.bind(value, "joined") for value in joined]
    for buffer, value in zip(folded, ready, strict=True):
        code.store(buffer, (0,), value)


def strided(
    step: Step, code: Code, folded: Sequence[Buffer], point: Sequence[Expr], lane: Expr, size: int
) -> None:
    """Every `size`-th element of the fold, from `lane` on."""
    length = math.prod(step.reduced)
    with code.loop("turn", ceil_div(length, size)) as turn:
        reach = ceil_div(length, size) * size
        with guarded(code, turn * size + lane, length, reach) as place:
            join(step, code, folded, step.terms(code, point, unravel(code, place, step.reduced)))


def across(step: Step, grid: Grid, folded: Sequence[Buffer], lane: Expr, size: int) -> list[Buffer]:
    """Join the registers of `size` neighbouring threads; lane 0 of each group has the result.

    Only lane 0 may read it before the next barrier.
    """
    code = grid.code
    parts = [grid.shared("parts", (grid.threads,), dtype) for dtype in step.reducer.dtypes]
    for part, buffer in zip(parts, folded, strict=True):
        code.store(part, (grid.thread,), buffer[0])
    half = size // 2
    while half:
        grid.sync()
        with code.when(lane < half):
            other = [part[grid.thread + half] for part in parts]
            joined = step.reducer.join([part[grid.thread] for part in parts], other)
            ready = [code.bind(value, "joined") for value in joined]
            for part, value in zip(parts, ready, strict=True):
                code.store(part, (grid.thread,), value)
        half //= 2
    return parts
