"""What matrix products have in common: extents, operands as elements, the place of a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype, width_of
from optc.backends.tvm.templates.dot import BYTES, Dot, dot_of, in_pairs
from optc.backends.tvm.templates.fused import FusedEmitter
from optc.backends.tvm.templates.image import Span, Steps, neighbours, pointer, reshaped, steps_of
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import Space, for_each_point, nested, space_of
from optc.backends.tvm.templates.places import Coordinate, Coordinates, plain, reshape
from optc.ir.dtype import DType
from optc.ir.graph import Node, Value
from optc.ir.ops import MatMul
from optc.ir.targets.target import Target

_FEWEST_ROWS = 4  # with fewer, vectors along rows stay emptier than stores apart are slow


class Left(Protocol):
    """The left side of a product, in words."""

    def word(self, at: Sequence[Expr], row: Expr, k: Expr) -> Expr:
        """One word, by batch index, row and place along K in words."""
        ...

    def load(self, buffer: Buffer, at: Sequence[Expr], row: Expr, k: Expr) -> None:
        """Fill a buffer with neighbouring words, by one vector load."""
        ...

    def rows(self, at: Sequence[Expr], row: Expr, first: Expr) -> Callable[[int, Expr], Expr]:
        """Words of the rows from `row` on, by distance from it and place along K beyond `first`."""
        ...

    def blocks(self, at: Sequence[Expr], row: Expr, size: int) -> Callable[[int, Expr], Expr]:
        """Vectors of `size` words of the rows from `row` on, by distance and number along K."""
        ...


@dataclass(frozen=True)
class Elements:
    """Words of one element each."""

    code: Code
    read: Callable[[Sequence[Expr]], Expr]

    def word(self, at: Sequence[Expr], row: Expr, k: Expr) -> Expr:
        """See Left."""
        return self.read([*at, row, k])

    def load(self, buffer: Buffer, at: Sequence[Expr], row: Expr, k: Expr) -> None:
        """See Left."""
        with self.code.vector("lane", int(buffer.shape[0])) as lane:
            self.code.store(buffer, (lane,), self.word(at, row, k + lane))

    def rows(self, at: Sequence[Expr], row: Expr, first: Expr) -> Callable[[int, Expr], Expr]:
        """See Left."""
        return lambda distance, k: self.word(at, row + distance, first + k)

    def blocks(self, at: Sequence[Expr], row: Expr, size: int) -> Callable[[int, Expr], Expr]:
        """See Left."""

        def block(distance: int, number: Expr) -> Expr:
            kind = str(self.word(at, row, number).ty)
            found = self.code.scratch("block", (size,), kind)
            self.load(found, at, row + distance, number * size)
            return tirx.BufferLoad(found, [tirx.Ramp(as_index(0), as_index(1), size)])

        return block


@dataclass(frozen=True)
class EvenRows(Elements):
    """Elements of `buffer` whose rows are `stride` apart, from the place that `at` gives on."""

    buffer: Buffer
    stride: int
    at: Callable[[Sequence[Expr]], list[Expr]]

    def rows(self, at: Sequence[Expr], row: Expr, first: Expr) -> Callable[[int, Expr], Expr]:
        """See Left; by one address register, see `image.Span`."""
        (start,) = self.at([*at, row, first])
        span = Span(self.buffer, self.code.bind(tirx.Cast("int64", start), "start"))
        return lambda distance, k: span[k + distance * self.stride]

    def blocks(self, at: Sequence[Expr], row: Expr, size: int) -> Callable[[int, Expr], Expr]:
        """See Left; by one address register, too."""
        (start,) = self.at([*at, row, as_index(0)])
        span = Span(self.buffer, self.code.bind(tirx.Cast("int64", start), "start"))
        return lambda distance, number: span.vector(number * size + distance * self.stride, size)


@dataclass(frozen=True)
class Neighbours:
    """Words of `group` elements that lie side by side in `buffer`, at the place `at` gives."""

    code: Code
    buffer: Buffer
    group: int
    at: Callable[[Sequence[Expr]], list[Expr]]

    def word(self, at: Sequence[Expr], row: Expr, k: Expr) -> Expr:
        """See Left."""
        return self._read([*at, row, k * self.group], 1)

    def load(self, buffer: Buffer, at: Sequence[Expr], row: Expr, k: Expr) -> None:
        """See Left."""
        count = int(buffer.shape[0])
        every = tirx.Ramp(as_index(0), as_index(1), count)
        self.code.store(buffer, (every,), self._read([*at, row, k * self.group], count))

    def rows(self, at: Sequence[Expr], row: Expr, first: Expr) -> Callable[[int, Expr], Expr]:
        """See Left."""
        return lambda distance, k: self.word(at, row + distance, first + k)

    def blocks(self, at: Sequence[Expr], row: Expr, size: int) -> Callable[[int, Expr], Expr]:
        """See Left."""
        step = size * self.group
        return lambda distance, number: self._read([*at, row + distance, number * step], size)

    def _read(self, index: Sequence[Expr], words: int) -> Expr:
        return neighbours(self.buffer, self.at(index), self.group, words)


@dataclass(frozen=True)
class EvenWords(Neighbours):
    """Of a left side whose rows are `stride` elements apart."""

    stride: int

    def rows(self, at: Sequence[Expr], row: Expr, first: Expr) -> Callable[[int, Expr], Expr]:
        """See Left; by one address register, see `image.Span`."""
        (start,) = self.at([*at, row, first * self.group])
        start = self.code.bind(tirx.Cast("int64", start), "start")
        span = Span(self.buffer, start, self.group)
        return lambda distance, k: span[k * self.group + distance * self.stride]


@dataclass(frozen=True)
class Product:
    """`linear` or `matmul` as [*batch, m, k] x [*batch, k, n]; a shared right side has no batch."""

    node: Node

    @property
    def shared(self) -> bool:
        """Whether one matrix is the right side for every row of the left."""
        right = self.node.inputs[1]
        return right.type.elements == math.prod(right.shape[-2:])

    @property
    def batch(self) -> tuple[int, ...]:
        """Axes that both sides have, or are broadcast along."""
        return () if self.shared else self.node.output.shape[:-2]

    @property
    def lead(self) -> tuple[int, ...]:
        """Axes of the result that count as rows."""
        return self.node.output.shape[len(self.batch) : -1]

    @property
    def m(self) -> int:
        """Rows of each result."""
        return math.prod(self.lead)

    @property
    def n(self) -> int:
        """Columns."""
        return self.node.output.shape[-1]

    @property
    def k(self) -> int:
        """Length of each sum."""
        return self.node.inputs[0].shape[-1]

    @property
    def transposed(self) -> bool:
        """Whether the right side is stored as [n, k]."""
        return not isinstance(self.node.op, MatMul) or self.node.op.transpose_b

    @property
    def dtype(self) -> DType:
        """What sums are kept in."""
        dtype = self.node.output.type.dtype
        return dtype if dtype in (DType.F64, DType.I32) else DType.F32

    def dot(self, target: Target, *, pairs: bool = False) -> Dot:
        """How the target multiplies and adds these elements; by `pairs` of rows if it can."""
        left, right = (value.type.dtype for value in self.node.inputs[:2])
        return (in_pairs if pairs else dot_of)(target, left, right)

    def wide(self, value: Expr) -> Expr:
        """The value in the type that sums are kept in."""
        dtype = tvm_dtype(self.dtype)
        return value if value.ty.dtype == dtype else tirx.Cast(dtype, value)

    def left_index(self, batch: Sequence[Expr], row: Expr, k: Expr) -> list[Expr]:
        """Index into the left side."""
        shape = self.node.inputs[0].shape
        rows = plain(reshape([row], [self.m], self.lead))
        return [*_broadcast([*batch, *rows], shape[:-1]), k]

    def right_index(self, batch: Sequence[Expr], k: Expr, column: Expr) -> list[Expr]:
        """Index into the right side."""
        shape = self.node.inputs[1].shape
        lead = [as_index(0)] * (len(shape) - 2) if self.shared else _broadcast(batch, shape[:-2])
        return [*lead, column, k] if self.transposed else [*lead, k, column]

    def place(self, batch: Sequence[Expr], row: Expr, column: Coordinate) -> Coordinates:
        """Index of a result."""
        return [*batch, *reshape([row], [self.m], self.lead), column]

    def is_stored_by_column(self, io: FusedEmitter) -> bool:
        """Whether what follows stores the result so that rows, not columns, are neighbours."""
        zeros = [as_index(0)] * len(self.batch)
        row, column = io.strides(lambda r, c: self.place(zeros, r, c), (self.m, self.n))
        return row == 1 and column != 1 and self.m >= _FEWEST_ROWS


def multiplies(node: Node) -> bool:
    """Whether a `linear` or `matmul` gives something, of floats or of bytes."""
    whole, bytes_ = node.output.type, node.inputs[0].type.dtype in BYTES
    return bool(whole.elements) and (whole.dtype.is_float or bytes_)


def _broadcast(index: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
    """The index into a tensor of `shape` that is broadcast to where `index` points."""
    tail = list(index)[len(index) - len(shape) :]
    return [as_index(0) if dim == 1 else i for i, dim in zip(tail, shape, strict=True)]


def left_operand(code: Code, io: FusedEmitter, product: Product, machine: Target, dot: Dot) -> Left:
    """Words of the left side, each read many times.

    What takes more than a load, or lies scattered, is first written to scratch memory.
    """

    def element(block: Code | None, index: Sequence[Expr]) -> Expr:
        *at, row, k = index
        return io.read(block, product.node.inputs[0], product.left_index(at, row, k))

    extents = [*product.batch, product.m, dot.words(product.k) * dot.group]
    if product.node.inputs[0].type.dtype is dot.left:
        in_place = _neighbours_in_place if dot.group > 1 else _elements_in_place
        left = in_place(code, io, product, dot)
        if left is not None:
            return left

    def laid_out(block: Code, index: Sequence[Expr]) -> Expr:
        return dot.stored(element(block, index))

    buffer = stored(code, extents, laid_out, dot.left_stored, product.k, machine, "left")
    if dot.group > 1:
        return Neighbours(code, buffer, dot.group, list)
    return Elements(code, lambda index: _as(buffer[tuple(index)], tvm_dtype(dot.sum)))


def _elements_in_place(code: Code, io: FusedEmitter, product: Product, dot: Dot) -> Left | None:
    def element(index: Sequence[Expr]) -> Expr:
        *at, row, k = index
        return io.read(None, product.node.inputs[0], product.left_index(at, row, k))

    space = space_of([*product.batch, product.m, product.k], lambda _, index: element(index))
    if space.operations or not _runs_along(space):
        return None
    steps = steps_of(io.task.problem.body, product.node.inputs[0])
    found = _whole_words(steps, product, dot) if steps else None
    if steps is None or found is None:
        return Elements(code, element)
    place, stride = found
    return EvenRows(code, element, flat(code, io, steps.source), stride, place)


def _neighbours_in_place(code: Code, io: FusedEmitter, product: Product, dot: Dot) -> Left | None:
    steps = steps_of(io.task.problem.body, product.node.inputs[0])
    if steps is None:
        return None
    found = _whole_words(steps, product, dot)
    if found is None:
        return None
    place, stride = found
    whole = flat(code, io, steps.source)
    if dot.apart:
        return EvenWords(code, whole, dot.group, place, stride)
    return Neighbours(code, whole, dot.group, place)


def _as(value: Expr, dtype: str) -> Expr:
    return value if str(value.ty) == dtype else tirx.Cast(dtype, value)


def flat(code: Code, io: FusedEmitter, source: Value) -> Buffer:
    """A parameter along one axis."""
    whole = io.inputs[io.task.problem.body.inputs.index(source)]
    return pointer(code, whole, [as_index(0)] * len(whole.shape), bits=True)


def _whole_words(
    steps: Steps, product: Product, dot: Dot
) -> tuple[Callable[[Sequence[Expr]], list[Expr]], int] | None:
    """Where the element at (batch, row, k) lies, if words can be read there, and rows' distance."""
    *lead, along = steps.steps
    apart = (*lead, steps.start, product.k)
    if along != 1 or any(step % dot.block for step in apart):
        return None
    shape = product.node.inputs[0].shape[:-1]
    first = max(0, len(shape) - len(product.lead))  # axis of rows
    # The result may have more axes than the left side: those are of extent 1.
    rows = reshaped(shape[first:], lead[first:], (product.m,))
    if rows is None:
        return None

    def place(index: Sequence[Expr]) -> list[Expr]:
        *at, row, k = index
        found: Expr = as_index(steps.start)
        batch = product.left_index(at, row, k)[:first]
        for item, step in zip([*batch, row], [*lead[:first], *rows], strict=True):
            found = found + item * step
        return [found + k]

    return place, rows[0]


def _runs_along(space: Space) -> bool:
    """Whether rows lie at equal distances, and loads go from neighbour to neighbour along them.

    Rows that lie anywhere would take an address register each.
    """
    for axis in (space.rank - 2, space.rank - 1):
        loops = [place for place, loop in enumerate(space.loops) if loop.axis == axis]
        if len(loops) > 1 or any(access[n] is None for access in space.strides for n in loops):
            return False
    return all(
        access[n] == 1
        for access in space.strides
        for n, loop in enumerate(space.loops)
        if loop.axis == space.rank - 1
    )


def stored(
    code: Code,
    extents: Sequence[int],
    element: Callable[[Code, Sequence[Expr]], Expr],
    dtype: str,
    length: int,
    machine: Target,
    name: str,
) -> Buffer:
    """A scratch array of all elements; beyond `length` along the last axis they are zero."""
    buffer = code.scratch(name, extents, dtype, "global")
    rows = len(extents) - 1 if length < extents[-1] else None  # apart: loops must not join them
    space = space_of([*extents[:-1], length], element, rows)
    width = max(space.width, width_of(dtype))
    for_each_point(
        code, space, machine, width, lambda index: code.store(buffer, index, element(code, index))
    )
    if length < extents[-1]:
        with nested(code, extents[:-1]) as lead, code.unrolled("k", extents[-1] - length) as k:
            code.store(buffer, (*lead, length + k), tirx.const(0, dtype))
    return buffer
