"""Scatters: copy the data, then join updates in order, serially where two may meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.lower.element import (
    compute,
    i32,
    maximum,
    minimum,
    reader,
    rounded,
    unravel,
    wide,
)
from optc.backends.tvm.lower.loop_nest import each_lane, loop_nest
from optc.ir.dtype import DType
from optc.ir.ops import Reduction, ScatterElements, ScatterNd
from optc.ir.types import TensorType

if TYPE_CHECKING:
    from optc.backends.tvm.lower.loop_nest import Body
    from optc.backends.tvm.templates.loops import Code

_CHUNK = 64  # columns that one thread keeps to itself

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]


def scatter_elements(op: ScatterElements, tensors: Tensors, types: Types) -> Tensors:
    """Only updates that differ in the place along the axis can meet: that loop is serial."""
    data, indices, _ = types
    others = [dim for axis, dim in enumerate(indices.shape) if axis != op.axis]
    count, kind = math.prod(others), _accumulator(op, data.dtype)

    def body(code: Code, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> None:
        (source, places, updates), (target,) = ins, outs
        copy(code, source, target, data.shape)
        if not indices.elements:
            return

        def update(column: Expr, along: Expr) -> None:
            index = unravel(column, others)
            index.insert(op.axis, along)
            row = code.bind(tirx.Cast("int64", places[tuple(index)]), "row")
            goal = [*index[: op.axis], i32(row), *index[op.axis + 1 :]]
            with code.when(_inside(row, data.shape[op.axis])):
                _join(code, op.reduction, kind, target, goal, updates[tuple(index)])

        with code.parallel("chunk", -(-count // _CHUNK)) as chunk:
            with code.loop("along", indices.shape[op.axis]) as along:
                with code.loop("column", min(count, _CHUNK)) as lane:
                    column = chunk * i32(_CHUNK) + lane
                    with code.when(column < i32(count)):
                        update(column, along)

    return _scatter(op, tensors, types, body)


def scatter_nd(op: ScatterNd, tensors: Tensors, types: Types) -> Tensors:
    """Any two updates can meet, so they follow one another; the columns of a row are shared out."""
    data, indices, _ = types
    depth, kind = indices.shape[-1], _accumulator(op, data.dtype)
    outer, inner = indices.shape[:-1], data.shape[depth:]
    planes, width = inner[:-1], inner[-1] if inner else 1
    pieces = width // _CHUNK if width % _CHUNK == 0 and width > _CHUNK else 1

    def body(code: Code, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> None:
        (source, places, updates), (target,) = ins, outs
        copy(code, source, target, data.shape)
        if not math.prod(outer) * math.prod(inner):
            return
        with code.parallel("piece", math.prod(planes) * pieces) as piece:
            plane = unravel(tirx.indexdiv(piece, i32(pieces)), planes) if planes else []
            first = tirx.indexmod(piece, i32(pieces)) * i32(width // pieces)
            with code.loop("update", math.prod(outer)) as update:
                where = unravel(update, outer)
                row = [
                    code.bind(tirx.Cast("int64", places[(*where, i32(axis))]), "row")
                    for axis in range(depth)
                ]
                goal = [i32(place) for place in row]
                pairs = zip(row, data.shape, strict=False)
                with code.when(tirx.all(_true(), *(_inside(place, dim) for place, dim in pairs))):

                    def element(lane: Expr) -> None:
                        tail = [*plane, first + lane] if inner else []
                        value = updates[(*where, *tail)]
                        _join(code, op.reduction, kind, target, [*goal, *tail], value)

                    each_lane(code, "column", width // pieces, element)

    return _scatter(op, tensors, types, body)


def _scatter(
    op: ScatterElements | ScatterNd, tensors: Tensors, types: Types, body: Body
) -> Tensors:
    """The loops over what they need: halves are summed in f32 and rounded once."""
    (data, indices, updates), result = tensors, types[0]
    kind = _accumulator(op, result.dtype)
    if kind is result.dtype:
        return loop_nest(op.name, tensors, [result], body)
    wide_type = result.with_dtype(kind)
    data = compute("data_wide", wide_type, reader(data, result))
    updates = compute("updates_wide", types[2].with_dtype(kind), reader(updates, types[2]))
    (joined,) = loop_nest(op.name, [data, indices, updates], [wide_type], body)
    return [rounded(joined, result)]


def _accumulator(op: ScatterElements | ScatterNd, dtype: DType) -> DType:
    return dtype if op.reduction is Reduction.NONE else wide(dtype)


def copy(code: Code, source: Buffer, target: Buffer, shape: Sequence[int]) -> None:
    """Copy a whole tensor, rows in parallel."""
    if not math.prod(shape):
        return
    if not shape:
        code.store(target, (), source[()])
        return
    with code.parallel("copy_row", math.prod(shape[:-1])) as row:
        index = unravel(row, shape[:-1]) if len(shape) > 1 else []

        def element(column: Expr) -> None:
            code.store(target, (*index, column), source[(*index, column)])

        each_lane(code, "copy", shape[-1], element)


def _inside(place: Expr, extent: int) -> Expr:
    """Updates outside the tensor are dropped rather than written into other memory."""
    zero, end = tirx.const(0, "int64"), tirx.const(extent, "int64")
    return tirx.all(place >= zero, place < end)


def _true() -> Expr:
    return tirx.const(True, "bool")


def _join(
    code: Code, how: Reduction, dtype: DType, target: Buffer, goal: Sequence[Expr], update: Expr
) -> None:
    old = target[tuple(goal)]
    code.store(target, goal, update if how is Reduction.NONE else _joined(how, dtype, old, update))


def _joined(how: Reduction, dtype: DType, old: Expr, update: Expr) -> Expr:
    if how in (Reduction.MAX, Reduction.MIN):
        return (maximum if how is Reduction.MAX else minimum)(old, update, dtype)
    if dtype is DType.BOOL:
        return tirx.Or(old, update) if how is Reduction.ADD else tirx.And(old, update)
    return old + update if how is Reduction.ADD else old * update
