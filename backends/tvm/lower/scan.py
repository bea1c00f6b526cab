"""Running folds: serial along their axis, side by side along the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.lower.element import (
    cast,
    compute,
    const,
    i32,
    reader,
    rounded,
    unravel,
    wide,
)
from optc.backends.tvm.lower.loop_nest import LANES, loop_nest
from optc.ir.dtype import DType
from optc.ir.ops import CumProd, CumSum
from optc.ir.types import TensorType

if TYPE_CHECKING:
    from optc.backends.tvm.templates.loops import Code


def cumulative(
    op: CumSum | CumProd, tensors: Sequence[te.Tensor], types: Sequence[TensorType]
) -> Sequence[te.Tensor]:
    """Running sum or product. f32 sums run in f64, as torch's do: long scans lose digits fast."""
    (x,) = types
    kind = wide(x.dtype)
    source, result = tensors[0], x.with_dtype(kind)
    if kind is not x.dtype:
        source = compute(f"{op.name}_wide", result, reader(source, x))
    running = DType.F64 if kind is DType.F32 else kind

    def body(code: Code, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> None:
        if x.elements:
            _walk(code, op, result, running, ins[0], outs[0])

    (scanned,) = loop_nest(op.name, [source], [result], body)
    return [rounded(scanned, x)]


def _walk(
    code: Code,
    op: CumSum | CumProd,
    type: TensorType,
    running: DType,
    source: Buffer,
    target: Buffer,
) -> None:
    outer, inner = type.shape[: op.axis], type.shape[op.axis + 1 :]
    columns = math.prod(inner)
    blocks, start = -(-columns // LANES), const(1 if isinstance(op, CumProd) else 0, running)
    lanes = min(columns, LANES)
    with code.parallel("row", math.prod(outer) * blocks) as row:
        head = unravel(tirx.indexdiv(row, i32(blocks)), outer) if outer else []
        first = tirx.indexmod(row, i32(blocks)) * i32(LANES)
        total = code.scratch("total", (lanes,), tvm_dtype(running))
        with code.loop("lane", lanes) as lane:
            code.store(total, (lane,), start)
        with code.loop("along", type.shape[op.axis]) as along, code.loop("lane", lanes) as lane:
            with _inside(code, first + lane, columns):
                place = (*head, along, *unravel(first + lane, inner)) if inner else (*head, along)
                joined = _joined(op, running, total[lane], cast(source[place], running))
                code.store(total, (lane,), joined)
                code.store(target, place, cast(total[lane], type.dtype))


def _inside(code: Code, column: Expr, columns: int) -> AbstractContextManager[None]:
    ragged = columns > LANES and columns % LANES
    return code.when(column < i32(columns)) if ragged else nullcontext()


def _joined(op: CumSum | CumProd, dtype: DType, total: Expr, item: Expr) -> Expr:
    if dtype is DType.BOOL:
        return tirx.And(total, item) if isinstance(op, CumProd) else tirx.Or(total, item)
    return total * item if isinstance(op, CumProd) else total + item
