"""Writing TIR by hand without noise: nested `with` blocks become loops and branches.

    code = Code()
    with code.parallel("row", 128) as row, code.vector("lane", 16) as lane:
        x = code.bind(a[row, lane])
        code.store(out, (row, lane), x * x)
    function = code.function("square", inputs=[a], outputs=[out])

Templates write loops directly rather than transform a schedule: ragged edges, register tiles and
epilogues that move data are then plain Python, and a kernel lowers in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from tvm import tirx
from tvm.ir import Expr, TensorLoad
from tvm.tirx import Buffer, ForKind, PrimFunc, Stmt, Var

from optc.backends.tvm.templates.legal import can_be_bound

Index = Sequence[Expr | int]
T = TypeVar("T")

# LLVM keeps a "local" array in registers when every index into it is a constant after unrolling.
REGISTERS = "local"
# TVM's vector code has no arrays of bool or bf16.
_NAMED_AS = {"bool": "int8", "bfloat16": "float32"}
# Waiting threads take and end a loop in 0.15 us where that was measured (Zen 5, two cores); some
# more is left for machines with more of them, and for half of the loop that is not saved.
FORK_CYCLES = 2_000.0
# Marks a serial loop whose iterations may run in any order: machines with many threads share it.
INDEPENDENT = "optc.independent"


class Code:
    """Statements under construction."""

    def __init__(self) -> None:
        self._blocks: list[list[Stmt]] = [[]]
        self._vectors: list[tuple[int, Var, int]] = []  # open: block outside, lane, lanes
        self._names: set[Buffer] = set()  # arrays of one value, written once

    def add(self, statement: Stmt) -> None:
        """Append a statement to the innermost open block."""
        self._blocks[-1].append(statement)

    def bind(self, value: Expr, name: str = "v") -> Expr:
        """Compute `value` once, here; answers with its name, or with itself if it needs none.

        Values go through memory of their own, which LLVM turns into registers: TVM copies a `Bind`
        of what reads no memory to its uses, which makes long expressions exponential, and loses
        vectors that are bound when it takes a statement of the loop apart.
        """
        if isinstance(value, Var | tirx.IntImm | tirx.FloatImm) or self._is_name(value):
            return value
        if not self._vectors and can_be_bound(value):
            variable = Var(name, value.ty)
            self.add(tirx.Bind(variable, value))
            return variable
        dtype = str(value.ty)
        wide = _NAMED_AS.get(dtype, dtype)
        named = self._remember(name, value if wide == dtype else tirx.Cast(wide, value), wide)
        if dtype == "bool":
            return tirx.NE(named, tirx.const(0, wide))
        return named if wide == dtype else tirx.Cast(dtype, named)

    def _remember(self, name: str, value: Expr, dtype: str) -> Expr:
        """Keep a value in an array with one place, or one for each lane."""
        block, lane, lanes = self._vectors[-1] if self._vectors else (-1, as_index(0), 1)
        buffer = tirx.decl_buffer((lanes,), dtype, name, scope="local", data_alignment=64)
        self._blocks[block].append(tirx.AllocBuffer(buffer))
        self.store(buffer, (lane,), value)
        self._names.add(buffer)
        return tirx.BufferLoad(buffer, [lane])

    def _is_name(self, value: Expr) -> bool:
        return isinstance(value, TensorLoad) and value.source in self._names

    def store(self, buffer: Buffer, index: Index, value: Expr) -> None:
        """`buffer[index] = value`."""
        self.add(tirx.BufferStore(buffer, value, [as_index(i) for i in index]))

    def prefetch(self, buffer: Buffer, place: Expr, level: int = 2) -> None:
        """Ask for the cache line of `buffer[place]` in the cache of a level; never faults."""
        address = tirx.address_of(tirx.BufferLoad(buffer, [place]))
        read, near, data = (tirx.const(n, "int32") for n in (0, 4 - level, 1))
        hint = tirx.call_llvm_intrin("void", "llvm.prefetch", address, read, near, data)
        self.add(tirx.Evaluate(hint))

    def scratch(self, name: str, shape: Sequence[int], dtype: str, scope: str = "local") -> Buffer:
        """Memory that lives to the end of the open block: "local" for tiles, "global" if large."""
        buffer = tirx.decl_buffer(tuple(shape), dtype, name, scope=scope, data_alignment=64)
        self.add(tirx.AllocBuffer(buffer))
        return buffer

    @contextmanager
    def loop(
        self,
        name: str,
        extent: Expr | int,
        kind: ForKind = ForKind.SERIAL,
        annotations: Mapping[str, object] | None = None,
    ) -> Iterator[Expr]:
        """Run the block for 0 <= index < extent; an extent of 1 makes no loop."""
        if isinstance(extent, int) and extent == 1:
            yield tirx.const(0, "int32")
            return
        variable = Var(name, "int32")
        vector = kind is ForKind.VECTORIZED
        if vector:
            self._vectors.append((len(self._blocks) - 1, variable, extent))
        with self._block() as body:
            yield variable
        if vector:
            self._vectors.pop()
        self.add(
            tirx.For(
                variable, as_index(0), as_index(extent), kind, body[0], annotations=annotations
            )
        )

    def parallel(self, name: str, extent: Expr | int):  # type: ignore[no-untyped-def]
        """A loop shared among threads in contiguous, equal parts."""
        return self.loop(name, extent, ForKind.PARALLEL)

    def shared(self, name: str, extent: int, cycles: float):  # type: ignore[no-untyped-def]
        """A loop that is parallel if its work outweighs waking the threads."""
        if cycles > FORK_CYCLES:
            return self.parallel(name, extent)
        return self.independent(name, extent)

    def independent(self, name: str, extent: int):  # type: ignore[no-untyped-def]
        """A serial loop whose iterations may run in any order."""
        return self.loop(name, extent, annotations={INDEPENDENT: True})

    def unrolled(self, name: str, extent: int):  # type: ignore[no-untyped-def]
        """A loop written out."""
        return self.loop(name, extent, ForKind.UNROLLED)

    def vector(self, name: str, lanes: int):  # type: ignore[no-untyped-def]
        """A loop that becomes vector instructions of that many lanes."""
        return self.loop(name, lanes, ForKind.VECTORIZED)

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Run the block if the condition holds."""
        with self._block() as body:
            yield
        self.add(tirx.IfThenElse(condition, body[0], None))

    @contextmanager
    def repeat(self, condition: Expr) -> Iterator[None]:
        """Run the block while the condition, which reads what the block stores, holds."""
        with self._block() as body:
            yield
        self.add(tirx.While(condition, body[0]))

    @contextmanager
    def otherwise(self, condition: Expr) -> Iterator[None]:
        """Run the block if the condition does not hold."""
        with self.when(tirx.Not(condition)):
            yield

    def cases(
        self, condition: Expr, yes: tuple[int, T], no: tuple[int, T]
    ) -> Iterator[tuple[T, AbstractContextManager[None]]]:
        """Both sides of a condition, given how often each is taken and what is true there.

        A side that is never taken is left out, and then the other needs no test.
        """
        if yes[0]:
            yield yes[1], self.when(condition) if no[0] else nullcontext()
        if no[0]:
            yield no[1], self.otherwise(condition) if yes[0] else nullcontext()

    def statement(self) -> Stmt:
        """Close: what was written, as one statement for a larger function."""
        (block,) = self._blocks
        return _sequence(block)

    def function(self, symbol: str, parameters: Sequence[Buffer]) -> PrimFunc:
        """Close: a function of these buffers. They do not overlap."""
        (block,) = self._blocks
        function = PrimFunc(list(parameters), _sequence(block))
        return function.with_attr("global_symbol", symbol).with_attr("tirx.noalias", True)

    @contextmanager
    def _block(self) -> Iterator[list[Stmt]]:
        closed: list[Stmt] = []
        self._blocks.append([])
        yield closed
        closed.append(_sequence(self._blocks.pop()))


def as_index(value: Expr | int) -> Expr:
    """Indices are int32: no tensor of a kernel has 2^31 elements."""
    return tirx.const(value, "int32") if isinstance(value, int) else value


def _sequence(block: list[Stmt]) -> Stmt:
    if not block:
        return tirx.Evaluate(tirx.const(0, "int32"))
    return block[0] if len(block) == 1 else tirx.SeqStmt(block)
