"""Stages written as loops (scans, sorts, scatters, LSTM): their parallel loops become threads.

Statements at the top follow one another as launches. A parallel loop there deals its iterations to
the whole grid. A serial loop around parallel ones (the steps of an LSTM) is run by one block, whose
threads share the inner loops and wait for each other between them. What has no parallel loop is one
thread's work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr, TensorLoad
from tvm.tirx import Buffer, ForKind, Stmt

from optc.backends.tvm.cuda.grid import Grid, barrier, ceil_div, point_of
from optc.backends.tvm.cuda.task import Task
from optc.backends.tvm.dtypes import nbytes_of
from optc.backends.tvm.templates.legal import legal
from optc.backends.tvm.templates.loops import INDEPENDENT

_THREADS = 128
_BLOCK = 512
_STACK = 1024  # bytes of a thread's own arrays; larger ones lie in device memory


def emit_handwritten(task: Task, op: te.ExternOp) -> None:
    """Add the launches of a stage of loops."""
    names = [*op.input_placeholders, *op.output_placeholders]
    inputs = [task.buffers[(tensor.op, tensor.value_index)] for tensor in op.inputs]
    goals = [task.goal_of(op.output(n)) for n in range(op.num_outputs)]
    lines = _flat(legal(op.body))
    homes = {name: Home(buffer) for name, buffer in zip(names, [*inputs, *goals], strict=True)}
    homes |= {
        line.buffer: Home(task.memory(line.buffer.name, line.buffer.shape, line.buffer.dtype))
        for line in lines
        if isinstance(line, tirx.AllocBuffer)
    }
    names_of_values: list[Stmt] = []
    for line in (moved(line, homes) for line in lines if not isinstance(line, tirx.AllocBuffer)):
        if isinstance(line, tirx.Bind):
            names_of_values.append(line)
        else:
            task.add(_launch(task, names_of_values, line))


@dataclass(frozen=True, eq=False)
class Home:
    """Where an array lives: in `buffer`, below the leading indices `lead`."""

    buffer: Buffer
    lead: tuple[Expr, ...] = ()


def moved(body: Stmt, homes: Mapping[Buffer, Home]) -> Stmt:
    """The statement with arrays at their homes, which are not allocated in it."""

    def allocate(item: tirx.AllocBuffer, _: tvm_ffi.StructuralMutator) -> Stmt:
        return tirx.Evaluate(tirx.const(0, "int32")) if item.buffer in homes else item

    def place(
        buffer: Buffer, indices: Sequence[Expr], mutator: tvm_ffi.StructuralMutator
    ) -> tuple[Buffer, list[Expr]]:
        home = homes.get(buffer, Home(buffer))
        return home.buffer, [*home.lead, *(mutator.mutate(index) for index in indices)]

    def load(item: TensorLoad, mutator: tvm_ffi.StructuralMutator) -> Expr:
        return tirx.BufferLoad(*place(item.source, item.indices, mutator))

    def store(item: tirx.BufferStore, mutator: tvm_ffi.StructuralMutator) -> Stmt:
        buffer, indices = place(item.buffer, item.indices, mutator)
        return tirx.BufferStore(buffer, mutator.mutate(item.value), indices)

    return tvm_ffi.structural_mutate(
        body, [(tirx.AllocBuffer, allocate), (TensorLoad, load), (tirx.BufferStore, store)]
    )


def _launch(task: Task, names: Sequence[Stmt], line: Stmt) -> Grid:
    if _is_parallel(line):
        extent = int(line.extent)
        grid = Grid(ceil_div(extent, _THREADS), _THREADS)
        iteration = point_of(grid)
        body: Stmt = tirx.IfThenElse(
            iteration < extent, _iteration(task, line, iteration, extent), None
        )
    elif _has_parallel(line):
        grid = Grid(1, _BLOCK)
        body = _shared(task, line, grid)
    else:
        grid, body = Grid(1, 1), line
    for statement in (*names, body):
        grid.code.add(statement)
    return grid


def _shared(task: Task, item: Stmt, grid: Grid) -> Stmt:
    """The statement as all threads of one block run it."""
    if _is_parallel(item):
        extent = int(item.extent)
        turn = tirx.Var("turn", "int32")
        iteration = turn * grid.threads + grid.thread
        body = _iteration(task, item, iteration, extent)
        inside = tirx.IfThenElse(iteration < extent, body, None)
        loop = tirx.For(
            turn, tirx.const(0, "int32"), tirx.const(ceil_div(extent, grid.threads), "int32"),
            ForKind.SERIAL, inside,
        )  # fmt: skip
        return tirx.SeqStmt([loop, barrier()])
    if isinstance(item, tirx.Bind | tirx.DeclBuffer | tirx.AllocBuffer):
        return item
    if not _has_parallel(item):
        first = tirx.IfThenElse(tirx.EQ(grid.thread, 0), item, None)
        return tirx.SeqStmt([first, barrier()])
    if isinstance(item, tirx.For):
        body = _shared(task, item.body, grid)
        return tirx.For(item.loop_var, item.min, item.extent, ForKind.SERIAL, body)
    if isinstance(item, tirx.SeqStmt):
        return tirx.SeqStmt([_shared(task, part, grid) for part in item.seq])
    raise NotImplementedError(f"a parallel loop inside {type(item).__name__}")


def _flat(body: Stmt) -> list[Stmt]:
    if isinstance(body, tirx.SeqStmt):
        return [line for part in body.seq for line in _flat(part)]
    return [body]


def _is_parallel(item: Stmt) -> bool:
    if not isinstance(item, tirx.For):
        return False
    return item.kind == ForKind.PARALLEL or INDEPENDENT in item.annotations


def _has_parallel(item: Stmt) -> bool:
    def loop(inner: tirx.For) -> tvm_ffi.VisitInterrupt | None:
        return tvm_ffi.VisitInterrupt(True) if _is_parallel(inner) else None

    return tvm_ffi.structural_walk(item, (tirx.For, loop)) is not None


def _iteration(task: Task, loop: tirx.For, iteration: Expr, extent: int) -> Stmt:
    """One iteration of a parallel loop; large arrays lie in device memory, a part for each."""
    homes: dict[Buffer, Home] = {}

    def scratch(item: tirx.AllocBuffer) -> None:
        buffer, shape = item.buffer, [int(dim) for dim in item.buffer.shape]
        if nbytes_of(buffer) > _STACK:
            memory = task.memory(buffer.name, [extent, *shape], buffer.dtype)
            homes[buffer] = Home(memory, (iteration,))

    def variable(item: tirx.Var) -> Expr:
        return loop.min + iteration if item.same_as(loop.loop_var) else item

    tvm_ffi.structural_walk(loop.body, (tirx.AllocBuffer, scratch))
    return tvm_ffi.structural_map(moved(loop.body, homes), (tirx.Var, variable))
