"""One launch under construction: a block of statements that every thread runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Expr, TensorLoad, Var
from tvm.tirx import Buffer, ForKind, PrimFunc, Stmt

from optc.backends.tvm.templates.loops import Code, as_index

WARP = 32
MOST_BLOCKS = (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class DeviceKernel:
    """A function that `blocks` x `threads` threads run; `buffers` are its parameters, in order."""

    function: PrimFunc
    buffers: tuple[Buffer, ...]
    blocks: int
    threads: int


class Grid:
    """`blocks` blocks of `threads` threads; what is written to `code` is run by each of them."""

    def __init__(self, blocks: int, threads: int) -> None:
        self.blocks, self.threads = max(1, blocks), threads
        self.code = Code()
        self.block = Var("block", "int32")
        self.thread = Var("thread", "int32")

    def sync(self) -> None:
        """All threads of a block wait for each other; what they stored is seen."""
        self.code.add(barrier())

    def shared(self, name: str, shape: Sequence[int], dtype: str) -> Buffer:
        """Memory that the threads of a block have in common."""
        return self.code.scratch(name, shape, dtype, "shared")

    def kernel(self, symbol: str, buffers: Sequence[Buffer]) -> DeviceKernel:
        """Close: the function, whose parameters are those of `buffers` that it touches."""
        return close(symbol, self.code.statement(), self, buffers)


def barrier() -> Stmt:
    """`__syncthreads()`."""
    return tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared"))


def close(symbol: str, body: Stmt, grid: Grid, buffers: Sequence[Buffer]) -> DeviceKernel:
    """The function that runs `body` on every thread of `grid`."""
    used = touched(body)
    parameters = tuple(buffer for buffer in buffers if buffer in used)
    body = _bound(grid.thread, grid.threads, "threadIdx.x", body)
    body = _bound(grid.block, grid.blocks, "blockIdx.x", body)
    function = PrimFunc(list(parameters), body)
    function = function.with_attr("global_symbol", symbol).with_attr("tirx.noalias", True)
    return DeviceKernel(function, parameters, grid.blocks, grid.threads)


def touched(body: Stmt) -> set[Buffer]:
    """Buffers that a statement reads, writes or takes the address of."""
    found: set[Buffer] = set()

    def load(item: TensorLoad) -> None:
        found.add(item.source)

    def store(item: tirx.BufferStore) -> None:
        found.add(item.buffer)

    def pointer(item: tvm.ir.Call) -> None:
        if item.op.name == "tirx.buffer_data":
            found.add(item.args[0])

    tvm_ffi.structural_walk(
        body, [(TensorLoad, load), (tirx.BufferStore, store), (tvm.ir.Call, pointer)]
    )
    return found


def _bound(variable: Var, extent: int, thread: str, body: Stmt) -> Stmt:
    axis = tirx.IterVar(None, Var(thread, "int32"), 1, thread)
    return tirx.For(
        variable, as_index(0), as_index(extent), ForKind.THREAD_BINDING, body, thread_binding=axis
    )


def ceil_div(value: int, by: int) -> int:
    """`value / by`, rounded up."""
    return -(-value // by)


def point_of(grid: Grid) -> Expr:
    """The number of the running thread in the whole grid."""
    return grid.block * grid.threads + grid.thread
