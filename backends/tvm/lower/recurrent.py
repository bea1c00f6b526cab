"""LSTM and GRU: one product for the inputs of all steps, then a scan over the steps.

The scan keeps h and c in f32. Units are handled in blocks of a vector: their rows of the recurrent
weight are multiplied by h, then the block's gates are computed side by side. Rows are read as they
are stored, so nothing is packed and one step alone (streaming) costs no more than its product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tvm import te
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.lower import functions as fn
from optc.backends.tvm.lower.element import (
    Lowering,
    cast,
    compute,
    const,
    i32,
    reader,
    rounded,
    wide,
)
from optc.backends.tvm.lower.loop_nest import LANES, each_lane, loop_nest
from optc.backends.tvm.templates.loops import Code
from optc.ir.dtype import DType
from optc.ir.ops import Gru, Lstm, Op
from optc.ir.types import TensorType

_WORTH_SHARING = 1 << 18  # multiply-adds in a step that repay waking threads

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]
# (gates, index in the block, batch, unit) -> stores the new state
Cell = Callable[[Expr, Expr, Expr], None]


@dataclass(frozen=True)
class _Scan:
    """Sizes of one layer and the buffers of its scan."""

    code: Code
    dtype: DType
    steps: int
    batch: int
    hidden: int
    gates: int
    reverse: bool

    def step_of(self, step: Expr) -> Expr:
        """The time that the scan's `step` looks at."""
        return i32(self.steps - 1) - step if self.reverse else step

    @property
    def blocks(self) -> int:
        """Blocks of units, the last of which may be short."""
        return -(-self.hidden // LANES)


def _projected(
    name: str, tensors: Tensors, types: Types, biases: Sequence[int], recurrent: int
) -> te.Tensor:
    """x W_ih^T + biases for all steps: [T, B, gates * H], wide."""
    x, weight = types[0], types[recurrent]
    dtype = wide(x.dtype)
    read, row = reader(tensors[0], x), reader(tensors[recurrent], weight)
    added = [reader(tensors[i], types[i]) for i in biases]
    inner = te.reduce_axis((0, x.shape[2]), "k")
    shape = (*x.shape[:2], weight.shape[0])

    def product(*index: Expr) -> Expr:
        *where, column = index
        return te.sum(read(*where, inner.var) * row(column, inner.var), axis=inner)

    products = te.compute(shape, product, name=f"{name}_input_product")

    def element(*index: Expr) -> Expr:
        value = products(*index)
        for bias in added:
            value = value + bias(index[-1])
        return value

    return compute(f"{name}_input", TensorType(shape, dtype), element)


def _multiply(
    scan: _Scan, weight: Buffer, state: Buffer, turn: Expr, sums: Buffer, block: Expr
) -> None:
    """sums[gate, batch, lane] = (rows of the block's units) . state[turn, batch]."""
    code, dtype = scan.code, scan.dtype
    count = min(LANES, scan.hidden)
    whole, tail = divmod(scan.hidden, LANES)
    name = tvm_dtype(dtype)
    with code.loop("gate", scan.gates) as gate, code.loop("lane", count) as lane:
        with code.when(block * i32(LANES) + lane < i32(scan.hidden)):
            row = gate * i32(scan.hidden) + block * i32(LANES) + lane
            with code.loop("batch", scan.batch) as batch:
                parts = code.scratch("parts", (LANES,), name)
                total = code.scratch("total", (1,), name)
                with code.vector("part", LANES) as part:
                    code.store(parts, (part,), const(0.0, dtype))
                if whole:
                    with code.loop("k", whole) as k, code.vector("part", LANES) as part:
                        column = k * i32(LANES) + part
                        item = cast(weight[row, column], dtype) * state[turn, batch, column]
                        code.store(parts, (part,), parts[part] + item)
                code.store(total, (0,), const(0.0, dtype))
                with code.unrolled("part", LANES) as part:
                    code.store(total, (0,), total[0] + parts[part])
                if tail:
                    with code.loop("k_tail", tail) as k:
                        column = i32(whole * LANES) + k
                        item = cast(weight[row, column], dtype) * state[turn, batch, column]
                        code.store(total, (0,), total[0] + item)
                code.store(sums, (gate, batch, lane), total[0])


def _each_unit(scan: _Scan, block: Expr, unit: Cell) -> None:
    """`unit(batch, lane, unit)` over the block: vectors where the block is whole."""
    code, short = scan.code, scan.hidden % LANES
    with code.loop("batch", scan.batch) as batch:
        if not short:
            with code.vector("lane", LANES) as lane:
                unit(batch, lane, block * i32(LANES) + lane)
            return
        with code.when(block < i32(scan.hidden // LANES)), code.vector("lane", LANES) as lane:
            unit(batch, lane, block * i32(LANES) + lane)
        with code.when(block == i32(scan.hidden // LANES)), code.loop("lane", short) as lane:
            unit(batch, lane, i32(scan.hidden - short) + lane)


def _run(
    scan: _Scan, weight: Buffer, state: Buffer, unit: Callable[[Expr, Expr, Expr, Buffer], Cell]
) -> None:
    """All steps; state is kept twice, so that a step reads the old while it writes the new."""
    code = scan.code
    work = scan.batch * scan.gates * scan.hidden * scan.hidden
    shared = code.parallel if work >= _WORTH_SHARING else code.loop
    with code.loop("step", scan.steps) as step:
        old = code.bind(step % i32(2), "old")
        with shared("block", scan.blocks) as block:
            sums = code.scratch("sums", (scan.gates, scan.batch, LANES), tvm_dtype(scan.dtype))
            _multiply(scan, weight, state, old, sums, block)
            _each_unit(scan, block, unit(scan.step_of(step), old, step, sums))


def _fill(
    code: Code, source: Buffer, batch: int, hidden: int, dtype: DType, target: object
) -> None:
    with code.loop("batch", batch) as row:

        def element(column: Expr) -> None:
            target(row, column, cast(source[row, column], dtype))  # type: ignore[operator]

        each_lane(code, "unit", hidden, element)


def _lstm(op: Lstm, tensors: Tensors, types: Types) -> Tensors:
    (steps, batch, _), hidden, dtype = types[0].shape, types[1].shape[1], wide(types[0].dtype)
    projected = _projected("lstm", tensors, types, (5, 6), 3)
    results = op.infer(*types)

    def body(code: Code, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> None:
        inputs, h, c, weight = ins
        y, last_h, last_c = outs
        scan = _Scan(code, dtype, steps, batch, hidden, 4, op.reverse)
        state = code.scratch("h", (2, batch, hidden), tvm_dtype(dtype), "global")
        _fill(code, h, batch, hidden, dtype, lambda i, j, v: code.store(state, (i32(0), i, j), v))
        _fill(code, c, batch, hidden, dtype, lambda i, j, v: code.store(last_c, (i, j), v))

        def unit(time: Expr, old: Expr, _: Expr, sums: Buffer) -> Cell:
            def step(row: Expr, lane: Expr, column: Expr) -> None:
                def gate(number: int) -> Expr:
                    place = (time, row, i32(number * hidden) + column)
                    return inputs[place] + sums[i32(number), row, lane]

                keep, take = fn.sigmoid(gate(1), dtype), fn.sigmoid(gate(0), dtype)
                candidate = take * fn.tanh(gate(2), dtype)
                code.store(last_c, (row, column), keep * last_c[row, column] + candidate)
                shown = fn.sigmoid(gate(3), dtype) * fn.tanh(last_c[row, column], dtype)
                code.store(state, (i32(1) - old, row, column), shown)
                code.store(y, (time, row, column), state[i32(1) - old, row, column])

            return step

        _run(scan, weight, state, unit)
        _fill_last(code, state, steps, batch, hidden, last_h)

    wide_types = [type.with_dtype(dtype) for type in results]
    scanned = loop_nest("lstm", [projected, tensors[1], tensors[2], tensors[4]], wide_types, body)
    return [rounded(tensor, type) for tensor, type in zip(scanned, results, strict=True)]


def _fill_last(
    code: Code, state: Buffer, steps: int, batch: int, hidden: int, target: Buffer
) -> None:
    with code.loop("batch", batch) as row:

        def element(column: Expr) -> None:
            code.store(target, (row, column), state[i32(steps % 2), row, column])

        each_lane(code, "unit", hidden, element)


def _gru(op: Gru, tensors: Tensors, types: Types) -> Tensors:
    (steps, batch, _), hidden, dtype = types[0].shape, types[1].shape[1], wide(types[0].dtype)
    projected = _projected("gru", tensors, types, (4,), 2)
    results = op.infer(*types)

    def body(code: Code, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> None:
        inputs, h, weight, bias = ins
        y, last_h = outs
        scan = _Scan(code, dtype, steps, batch, hidden, 3, op.reverse)
        state = code.scratch("h", (2, batch, hidden), tvm_dtype(dtype), "global")
        _fill(code, h, batch, hidden, dtype, lambda i, j, v: code.store(state, (i32(0), i, j), v))

        def unit(time: Expr, old: Expr, _: Expr, sums: Buffer) -> Cell:
            def step(row: Expr, lane: Expr, column: Expr) -> None:
                def ours(number: int) -> Expr:
                    return inputs[time, row, i32(number * hidden) + column]

                def theirs(number: int) -> Expr:
                    added = cast(bias[i32(number * hidden) + column], dtype)
                    return sums[i32(number), row, lane] + added

                reset = fn.sigmoid(ours(0) + theirs(0), dtype)
                keep = fn.sigmoid(ours(1) + theirs(1), dtype)
                new = fn.tanh(ours(2) + reset * theirs(2), dtype)
                mixed = (const(1.0, dtype) - keep) * new + keep * state[old, row, column]
                code.store(state, (i32(1) - old, row, column), mixed)
                code.store(y, (time, row, column), state[i32(1) - old, row, column])

            return step

        _run(scan, weight, state, unit)
        _fill_last(code, state, steps, batch, hidden, last_h)

    wide_types = [type.with_dtype(dtype) for type in results]
    scanned = loop_nest("gru", [projected, tensors[1], tensors[3], tensors[5]], wide_types, body)
    return [rounded(tensor, type) for tensor, type in zip(scanned, results, strict=True)]


LOWER: Mapping[type[Op], Lowering] = {Lstm: _lstm, Gru: _gru}
