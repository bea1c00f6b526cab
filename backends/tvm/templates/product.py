"""What matrix products have in common: extents, operands as elements, the place of a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.fused import FusedEmitter
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import Space, for_each_point, space_of
from optc.backends.tvm.templates.places import Coordinate, Coordinates, plain, reshape
from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.ops import MatMul
from optc.ir.targets.target import Target

_FEWEST_ROWS = 4  # with fewer, vectors along rows stay emptier than stores apart are slow
# An element of an operand, by (batch index, row or k, k or column).
Operand = Callable[[Sequence[Expr], Expr, Expr], Expr]


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
        return DType.F64 if self.node.output.type.dtype is DType.F64 else DType.F32

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


def _broadcast(index: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
    """The index into a tensor of `shape` that is broadcast to where `index` points."""
    tail = list(index)[len(index) - len(shape) :]
    return [as_index(0) if dim == 1 else i for i, dim in zip(tail, shape, strict=True)]


def left_operand(code: Code, io: FusedEmitter, product: Product, machine: Target) -> Operand:
    """Elements of the left side, each read many times.

    What takes more than a load, or lies scattered, is first written to scratch memory.
    """
    value = product.node.inputs[0]
    batch = list(product.batch)
    extents = [*batch, product.m, product.k]

    def element(block: Code | None, index: Sequence[Expr]) -> Expr:
        *at, row, k = index
        return product.wide(io.read(block, value, product.left_index(at, row, k)))

    space = space_of(extents, element)
    if space.operations == 0 and value.type.dtype is product.dtype and _runs_along(space):
        return lambda at, row, k: element(None, [*at, row, k])
    buffer = stored(code, extents, element, product, machine, "left")
    return lambda at, row, k: buffer[(*at, row, k)]


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
    product: Product,
    machine: Target,
    name: str,
) -> Buffer:
    """A scratch array of all elements."""
    buffer = code.scratch(name, extents, tvm_dtype(product.dtype), "global")
    space = space_of(extents, element)
    width = max(space.width, product.dtype.bits // 8)
    for_each_point(
        code, space, machine, width, lambda index: code.store(buffer, index, element(code, index))
    )
    return buffer
