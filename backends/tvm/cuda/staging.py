"""A factor on its way into shared memory: vectors that nobody waits for, or element by element.

A slice is `width` points of a factor's own axes by `depth` of the folded ones. Each row of it is
padded, so that the eight rows that ldmatrix reads at once lie in different banks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tvm import tirx
from tvm.ir import Expr, TensorLoad
from tvm.tirx import Buffer

from optc.backends.tvm.cuda.grid import Grid, ceil_div
from optc.backends.tvm.cuda.schemes import guarded
from optc.backends.tvm.cuda.tensor_cores import Layout, guarded_load, narrowed
from optc.backends.tvm.cuda.tensor_tiles import PAD
from optc.backends.tvm.dtypes import width_of
from optc.backends.tvm.templates.loops import Code, as_index

Element = Callable[[Expr, Expr], Expr]


class Slices:
    """Slices of a factor in shared memory, and how a block fills them.

    `element(at, k)` is the factor at a point of its `extents`, in a dtype that `narrowed` takes.
    """

    def __init__(
        self,
        grid: Grid,
        element: Element,
        dtype: str,
        layout: Layout,
        size: tuple[int, int],
        extents: tuple[int, int],
        stages: int,
    ) -> None:
        self.grid, self.code, self.element = grid, grid.code, element
        self.dtype, self.layout = dtype, layout
        self.bytes = width_of(dtype)
        (self.width, self.depth), (self.extent, self.total) = size, extents
        pad = PAD // self.bytes
        self.pitch = (self.width if layout.turned else self.depth) + pad
        self.size = (self.depth if layout.turned else self.width) * self.pitch
        self.shared = grid.shared("slices", (stages * self.size,), dtype)
        self._held: Buffer | None = None
        self._aligned: Expr | None = None

    def place(self, at: Expr | int, k: Expr | int) -> Expr:
        """Where an element lies in its slice."""
        return k * self.pitch + at if self.layout.turned else at * self.pitch + k

    def prepare(self) -> None:
        """Before any fetch: whether the factor's address lets vectors be copied; registers."""
        if self.layout.vector == 1:
            self._held = self.code.scratch("held", (self._turns(),), self.dtype)
            return
        zero = as_index(0)
        load = self._load(zero, zero)[1]
        base = tirx.address_of(tirx.BufferLoad(load.source, [zero] * len(load.source.shape)))
        nbytes = as_index(self.layout.vector * self.bytes)
        home = self.code.scratch("aligned", (1,), "int32")
        self.code.store(home, (0,), tirx.call_extern("int32", "optc_aligned", base, nbytes))
        self._aligned = tirx.NE(home[0], as_index(0))

    def fetch(self, start: Expr, depth: Expr, stage: Expr) -> None:
        """Ask for a slice: copies that nobody waits for, or elements that are held until `put`."""
        code, held = self.code, self._held
        if held is not None:
            with code.unrolled("turn", self._turns()) as turn:
                self._each(turn, lambda at, k: self._keep(held, turn, start, at, depth, k))
            return
        assert self._aligned is not None
        with code.when(self._aligned), code.unrolled("turn", self._turns()) as turn:
            self._each(turn, lambda at, k: self._copy(start, at, depth, k, stage))
        with code.otherwise(self._aligned), code.loop("turn", self._turns()) as turn:
            self._each(turn, lambda at, k: self._copy_each(start, at, depth, k, stage))

    def put(self, stage: Expr) -> None:
        """Elements that were held go to shared memory."""
        code, held = self.code, self._held
        if held is None:
            return
        with code.unrolled("turn", self._turns()) as turn:

            def store(at: Expr, k: Expr) -> None:
                code.store(self.shared, (stage * self.size + self.place(at, k),), held[turn])

            self._each(turn, store)

    def _turns(self) -> int:
        """Vectors of a slice that each thread fetches."""
        return ceil_div(self.width * self.depth, self.layout.vector * self.grid.threads)

    def _each(self, turn: Expr, body: Callable[[Expr, Expr], None]) -> None:
        """`body(at, k)` for the vector that this thread fetches in a turn."""
        code, vector, threads = self.code, self.layout.vector, self.grid.threads
        total, reach = self.width * self.depth // vector, self._turns() * threads
        with guarded(code, turn * threads + self.grid.thread, total, reach) as place:
            if self.layout.along_depth:
                per_row = self.depth // vector
                at, k = tirx.floordiv(place, per_row), tirx.floormod(place, per_row) * vector
            else:
                per_row = self.width // vector
                k, at = tirx.floordiv(place, per_row), tirx.floormod(place, per_row) * vector
            body(code.bind(at, "at"), code.bind(k, "k"))

    def _inside(self, start: Expr, at: Expr, depth: Expr, k: Expr) -> list[Expr]:
        """What must hold for a point of the slice to be one of the factor."""
        conditions = []
        if self.extent % self.width:
            conditions.append(start + at < self.extent)
        if self.total % self.depth:
            conditions.append(depth + k < self.total)
        return conditions

    def _load(self, at: Expr, k: Expr) -> tuple[list[Expr], TensorLoad]:
        found = guarded_load(self.element(at, k), self.dtype)
        assert found is not None
        return found

    def _copy(self, start: Expr, at: Expr, depth: Expr, k: Expr, stage: Expr) -> None:
        conditions, load = self._load(start + at, depth + k)
        conditions = [*self._inside(start, at, depth, k), *conditions]
        inside = tirx.Cast("int32", tirx.all(*conditions)) if conditions else as_index(1)
        target = address(self.shared, stage * self.size + self.place(at, k))
        name = f"optc_copy_{self.layout.vector * self.bytes}"
        call(self.code, name, target, tirx.address_of(load), inside)

    def _copy_each(self, start: Expr, at: Expr, depth: Expr, k: Expr, stage: Expr) -> None:
        with self.code.loop("e", self.layout.vector) as e:
            at, k = (at, k + e) if self.layout.along_depth else (at + e, k)
            for inside, context in self._cases(start, at, depth, k):
                with context:
                    place = stage * self.size + self.place(at, k)
                    value = self._value(start + at, depth + k) if inside else self._zero
                    self.code.store(self.shared, (place,), value)

    def _keep(self, held: Buffer, turn: Expr, start: Expr, at: Expr, depth: Expr, k: Expr) -> None:
        for inside, context in self._cases(start, at, depth, k):
            with context:
                value = self._value(start + at, depth + k) if inside else self._zero
                self.code.store(held, (turn,), value)

    def _cases(
        self, start: Expr, at: Expr, depth: Expr, k: Expr
    ) -> Iterator[tuple[bool, AbstractContextManager[None]]]:
        ragged = self._inside(start, at, depth, k)
        condition = tirx.all(*ragged) if ragged else tirx.const(True, "bool")
        return self.code.cases(condition, (1, True), (len(ragged), False))

    def _value(self, at: Expr, k: Expr) -> Expr:
        """The element in the dtype that shared memory holds."""
        value = self.element(at, k)
        return value if value.ty.dtype == self.dtype else narrowed(value, self.dtype)

    @property
    def _zero(self) -> Expr:
        """Nothing, as the slices hold it."""
        return tirx.Cast(self.dtype, tirx.const(0, "int32" if self.bytes == 1 else "float32"))


def address(buffer: Buffer, place: Expr) -> Expr:
    """Where an element of a flat buffer lies."""
    return tirx.address_of(tirx.BufferLoad(buffer, [place]))


def call(code: Code, name: str, *arguments: Expr) -> None:
    """A call of a device function that gives nothing back."""
    code.add(tirx.Evaluate(tirx.call_extern("void", name, *arguments)))
