"""Bags of rows: each output row joins the table rows that a run of indices names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.lower.element import (
    Lowering,
    cast,
    choose,
    clamp_index,
    const,
    i32,
    maximum,
    rounded,
    wide,
)
from optc.backends.tvm.lower.loop_nest import each_lane, loop_nest
from optc.ir.ops import BagMode, EmbeddingBag, Op
from optc.ir.types import TensorType

if TYPE_CHECKING:
    from optc.backends.tvm.templates.loops import Code


def _embedding_bag(
    op: EmbeddingBag, tensors: Sequence[te.Tensor], types: Sequence[TensorType]
) -> Sequence[te.Tensor]:
    weight, indices, _ = types[:3]
    (result,), kind = op.infer(*types), wide(weight.dtype)

    def body(code: Code, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> None:
        bags, columns = result.shape
        if not bags * columns:
            return
        with code.parallel("bag", bags) as bag:
            start, end = _bounds(code, ins[2], bag, bags, indices.elements)
            total = code.scratch("total", (columns,), tvm_dtype(kind))

            def clear(column: Expr) -> None:
                code.store(total, (column,), const(0, kind))

            each_lane(code, "clear", columns, clear)
            if indices.elements:
                with code.loop("step", tirx.max(end - start, i32(0))) as step:
                    _add_row(code, op, types, ins, total, start, step)
            count = code.bind(cast(tirx.max(end - start, i32(1)), kind), "count")

            def finish(column: Expr) -> None:
                value = total[column]
                value = value / count if op.mode is BagMode.MEAN else value
                code.store(outs[0], (bag, column), value)

            each_lane(code, "finish", columns, finish)

    (joined,) = loop_nest(op.name, tensors, [result.with_dtype(kind)], body)
    return [rounded(joined, result)]


def _bounds(code: Code, offsets: Buffer, bag: Expr, bags: int, count: int) -> tuple[Expr, Expr]:
    """The run of indices of one bag, kept inside the indices whatever the offsets say."""

    def inside(place: Expr) -> Expr:
        return tirx.max(tirx.min(i32(offsets[place]), i32(count)), i32(0))

    start = code.bind(inside(bag), "start")
    following = inside(tirx.min(bag + i32(1), i32(bags - 1)))
    last = tirx.EQ(bag, i32(bags - 1)) if bags > 1 else tirx.const(True, "bool")
    return start, code.bind(choose(last, i32(count), following), "end")


def _add_row(
    code: Code,
    op: EmbeddingBag,
    types: Sequence[TensorType],
    ins: Sequence[Buffer],
    total: Buffer,
    start: Expr,
    step: Expr,
) -> None:
    table, indices, _, *scales = ins
    kind = wide(types[0].dtype)
    place = start + step
    row = code.bind(clamp_index(indices[place], types[0].shape[0]), "row")
    scale = code.bind(cast(scales[0][place], kind), "scale") if scales else None

    def element(column: Expr) -> None:
        item = cast(table[row, column], kind)
        old = total[column]
        if op.mode is BagMode.MAX:
            new = choose(tirx.EQ(step, i32(0)), item, maximum(old, item, kind))
        else:
            new = old + (item if scale is None else item * scale)
        code.store(total, (column,), new)

    each_lane(code, "column", types[0].shape[1], element)


LOWER: Mapping[type[Op], Lowering] = {EmbeddingBag: _embedding_bag}
