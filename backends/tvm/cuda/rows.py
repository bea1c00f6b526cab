"""Softmax, norms and their kin: a block of threads does everything that a row needs.

What several stages of a row share is kept in shared memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.cuda.grid import WARP, Grid, ceil_div
from optc.backends.tvm.cuda.schemes import accumulators, across, guarded, join, strided
from optc.backends.tvm.cuda.task import Step, Task
from optc.backends.tvm.dtypes import width_of
from optc.backends.tvm.templates.elements import key_of
from optc.backends.tvm.templates.nest import nested, unravel
from optc.backends.tvm.templates.rows import common_axes, reason_against

_MOST_SHARED = 32 * 1024  # bytes a block may keep of its row
_SHORTEST = 8
_THREADS = 256


def emit_rows(task: Task) -> bool:
    """Add the launch. False, and the task is as before, where its stages are no rows."""
    if reason_against(task.stages) or len(task.stages) < 2:
        return False
    rows = _Rows(task, common_axes(task.stages))
    if rows.length < _SHORTEST or rows.kept > _MOST_SHARED:
        return False
    sources = dict(task.sources)
    try:
        rows.run()
    except RuntimeError:  # what TVM's callbacks make of a NotInRow
        if rows.fault is None:
            raise
        task.sources = sources
        return False
    task.add(rows.grid)
    return True


class _Rows:
    def __init__(self, task: Task, rank: int) -> None:
        self.task, self.rank = task, rank
        self.fault: str | None = None
        extents = [int(axis.dom.extent) for axis in task.stages[0].axis[:rank]]
        threads = WARP
        while threads < _THREADS and threads * 4 <= self.length:
            threads *= 2
        self.grid = Grid(math.prod(extents), threads)
        self.prefix = unravel(self.grid.code, self.grid.block, extents)

    @property
    def length(self) -> int:
        """Elements that the longest stage goes through for a row."""
        return max(
            math.prod(_extents((*op.axis[self.rank :], *op.reduce_axis))) for op in self.task.stages
        )

    @property
    def kept(self) -> int:
        """Bytes that stages keep of a row."""
        return sum(
            math.prod(_extents(op.axis[self.rank :])) * width_of(op.output(n).dtype)
            for op in self.task.stages
            for n in range(op.num_outputs)
        )

    def run(self) -> None:
        """Stage after stage."""
        results = {key_of(tensor) for tensor in self.task.results}
        for op in self.task.stages:
            step = Step(self.task, op, None)
            goals: list[Buffer] = []
            for n in range(op.num_outputs):
                tensor = op.output(n)
                if key_of(tensor) in results:
                    goals.append(self.task.goal_of(tensor))
                else:
                    shape = _extents(op.axis[self.rank :])
                    goals.append(self.grid.shared(op.name, shape or [1], tensor.dtype))
            self.stage(step, goals)
            if op is not self.task.stages[-1]:
                self.grid.sync()
            for n, goal in enumerate(goals):
                self.place(op.output(n), goal)

    def stage(self, step: Step, goals: Sequence[Buffer]) -> None:
        """All elements of a stage in this block's row."""
        code, thread, threads = self.grid.code, self.grid.thread, self.grid.threads
        extents = step.extents[self.rank :]
        total = math.prod(extents)

        def write(number: int, point: Sequence[Expr], value: Expr) -> None:
            code.store(goals[number], self.index(goals[number], step, point), value)

        if step.fold is not None and total == 1:
            point = [*self.prefix, *([tirx.const(0, "int32")] * len(extents))]
            folded = accumulators(step, code)
            strided(step, code, folded, point, thread, threads)
            parts = across(step, self.grid, folded, thread, threads)
            with code.when(tirx.EQ(thread, 0)):
                step.finish(code, point, [code.bind(part[0], "folded") for part in parts], write)
            return
        turns = ceil_div(total, threads)
        with code.loop("turn", turns) as turn:
            with guarded(code, turn * threads + thread, total, turns * threads) as place:
                point = [*self.prefix, *unravel(code, place, extents)]
                values: list[Expr] = []
                if step.fold is not None:
                    folded = accumulators(step, code)
                    with nested(code, step.reduced) as inner:
                        join(step, code, folded, step.terms(code, point, inner))
                    values = [code.bind(buffer[0], "folded") for buffer in folded]
                step.finish(code, point, values, write)

    def index(self, goal: Buffer, step: Step, point: Sequence[Expr]) -> list[Expr]:
        """Where a point of the stage lies in its goal: shared memory holds one row."""
        if goal.scope() == "shared":
            return list(point[self.rank :]) or [tirx.const(0, "int32")]
        return list(point)

    def place(self, tensor: te.Tensor, goal: Buffer) -> None:
        """Later stages of the row read the tensor where it was stored."""
        rank, prefix = self.rank, self.prefix

        def read(index: Sequence[Expr]) -> Expr:
            if not all(map(tvm_ffi.structural_equal, index[:rank], prefix)):
                self.fault = f"a stage reads other rows of {tensor.op.name}"
                raise RuntimeError(self.fault)
            inside = list(index[rank:]) or [tirx.const(0, "int32")]
            return tirx.BufferLoad(goal, inside if goal.scope() == "shared" else list(index))

        self.task.place(tensor, goal)
        self.task.sources[key_of(tensor)] = read


def _extents(axes: Sequence[tirx.IterVar]) -> list[int]:
    return [int(axis.dom.extent) for axis in axes]
