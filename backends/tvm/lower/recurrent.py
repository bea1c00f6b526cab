"""LSTM and GRU: one product for the inputs of all steps, then a scan over the steps.

The scan keeps h and c in f32. Units are handled in blocks of a vector: their rows of the recurrent
weight are multiplied by h, then the block's gates are computed side by side. Rows are read as they
are stored, so nothing is packed and one step alone (streaming) costs no more than its product.
Gates replace their sums in memory: a name for each would not survive TVM's vector loops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import te, tirx
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
from optc.ir.dtype import DType
from optc.ir.ops import Gru, Lstm, Op
from optc.ir.types import TensorType

if TYPE_CHECKING:
    from optc.backends.tvm.templates.loops import Code

_WORTH_SHARING = 1 << 18  # multiply-adds in a step that repay waking threads

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]


@dataclass(frozen=True)
class _Scan:
    """The code under construction and the sizes of one layer."""

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
    def lanes(self) -> int:
        """Units of a block."""
        return min(LANES, self.hidden)


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
    scan: _Scan, weight: Buffer, state: Buffer, turn: Expr, sums: Buffer, first: Expr
) -> None:
    """sums[gate, batch, lane] = (rows of the block's units) . state[turn, batch]."""
    code, dtype = scan.code, scan.dtype
    whole, tail = divmod(scan.hidden, LANES)
    name = tvm_dtype(dtype)
    # One loop over gates and lanes: LLVM would write out the short one, and take a second over it.
    with code.loop("row", scan.gates * scan.lanes) as place:
        gate, lane = tirx.indexdiv(place, i32(scan.lanes)), tirx.indexmod(place, i32(scan.lanes))
        row = gate * i32(scan.hidden) + first + lane
        with code.loop("batch", scan.batch) as batch:

            def item(column: Expr) -> Expr:
                return cast(weight[row, column], dtype) * state[turn, batch, column]

            parts = code.scratch("parts", (LANES,), name)
            total = code.scratch("total", (1,), name)
            with code.vector("part", LANES) as part:
                code.store(parts, (part,), const(0.0, dtype))
            if whole:
                with code.loop("k", whole) as k, code.vector("part", LANES) as part:
                    code.store(parts, (part,), parts[part] + item(k * i32(LANES) + part))
            code.store(total, (0,), _across_lanes(code, parts, name))
            if tail:
                with code.loop("k_tail", tail) as k:
                    code.store(total, (0,), total[0] + item(i32(whole * LANES) + k))
            code.store(sums, (gate, batch, lane), total[0])


def _across_lanes(code: Code, parts: Buffer, dtype: str) -> Expr:
    """The sum of a vector by halving, each half an array of its own: one that is read in vectors of
    many lengths takes LLVM seconds.
    """
    size = LANES // 2
    while size:
        half = code.scratch("half", (size,), dtype)
        with code.vector("part", size) as part:
            code.store(half, (part,), parts[part] + parts[i32(size) + part])
        parts, size = half, size // 2
    return parts[0]


def _run(scan: _Scan, weight: Buffer, state: Buffer, unit: Callable[..., None]) -> None:
    """All steps; state is kept twice, so that a step reads the old while it writes the new.

    `unit(time, old, sums, batch, lane, column)` stores the new state of one unit. Where the units
    are no whole blocks the last block begins early: some are computed twice, to the same values.
    """
    code = scan.code
    work = scan.batch * scan.gates * scan.hidden * scan.hidden
    shared = code.parallel if work >= _WORTH_SHARING else code.loop
    with code.loop("step", scan.steps) as step:
        old = code.bind(step % i32(2), "old")
        with shared("block", -(-scan.hidden // scan.lanes)) as block:
            first = tirx.min(block * i32(scan.lanes), i32(scan.hidden - scan.lanes))
            sums = code.scratch("sums", (scan.gates, scan.batch, scan.lanes), tvm_dtype(scan.dtype))
            _multiply(scan, weight, state, old, sums, first)
            with code.loop("batch", scan.batch) as batch, code.vector("lane", scan.lanes) as lane:
                unit(scan.step_of(step), old, sums, batch, lane, first + lane)


def _activate(
    code: Code, target: Buffer, place: Sequence[Expr], value: Expr, function: str, dtype: DType
) -> None:
    """Store function(value). By way of memory: TVM takes a second over a function of a sum."""
    code.store(target, place, value)
    code.store(target, place, fn.apply(function, target[tuple(place)], dtype))


def _two_states(scan: _Scan, name: str, initial: Buffer) -> Buffer:
    """Memory for the old and the new state in turns, the first of which is `initial`."""
    code, shape = scan.code, (2, scan.batch, scan.hidden)
    state = code.scratch(name, shape, tvm_dtype(scan.dtype), "global")
    with code.loop("batch", scan.batch) as row:

        def element(column: Expr) -> None:
            code.store(state, (i32(0), row, column), cast(initial[row, column], scan.dtype))

        each_lane(code, "unit", scan.hidden, element)
    return state


def _copy_last(scan: _Scan, state: Buffer, target: Buffer) -> None:
    code, turn = scan.code, i32(scan.steps % 2)
    with code.loop("batch", scan.batch) as row:

        def element(column: Expr) -> None:
            code.store(target, (row, column), state[turn, row, column])

        each_lane(code, "unit", scan.hidden, element)


def _lstm(op: Lstm, tensors: Tensors, types: Types) -> Tensors:
    (steps, batch, _), hidden, dtype = types[0].shape, types[1].shape[1], wide(types[0].dtype)
    projected = _projected("lstm", tensors, types, (5, 6), 3)
    results = op.infer(*types)

    def body(code: Code, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> None:
        (inputs, h, c, weight), (y, last_h, last_c) = ins, outs
        scan = _Scan(code, dtype, steps, batch, hidden, 4, op.reverse)
        state, cell = _two_states(scan, "h", h), _two_states(scan, "c", c)

        def unit(time: Expr, old: Expr, sums: Buffer, row: Expr, lane: Expr, column: Expr) -> None:
            fresh = i32(1) - old
            for number, function in enumerate(("sigmoid", "sigmoid", "tanh", "sigmoid")):
                place = (time, row, i32(number * hidden) + column)
                value = inputs[place] + sums[i32(number), row, lane]
                _activate(code, sums, (i32(number), row, lane), value, function, dtype)
            take, keep, new, show = (sums[i32(number), row, lane] for number in range(4))
            code.store(cell, (fresh, row, column), keep * cell[old, row, column] + take * new)
            shown = show * fn.tanh(cell[fresh, row, column], dtype)
            code.store(state, (fresh, row, column), shown)
            code.store(y, (time, row, column), state[fresh, row, column])

        _run(scan, weight, state, unit)
        _copy_last(scan, state, last_h)
        _copy_last(scan, cell, last_c)

    wide_types = [type.with_dtype(dtype) for type in results]
    scanned = loop_nest("lstm", [projected, tensors[1], tensors[2], tensors[4]], wide_types, body)
    return [rounded(tensor, type) for tensor, type in zip(scanned, results, strict=True)]


def _gru(op: Gru, tensors: Tensors, types: Types) -> Tensors:
    (steps, batch, _), hidden, dtype = types[0].shape, types[1].shape[1], wide(types[0].dtype)
    projected = _projected("gru", tensors, types, (4,), 2)
    results = op.infer(*types)

    def body(code: Code, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> None:
        (inputs, h, weight, bias), (y, last_h) = ins, outs
        scan = _Scan(code, dtype, steps, batch, hidden, 3, op.reverse)
        state = _two_states(scan, "h", h)

        def unit(time: Expr, old: Expr, sums: Buffer, row: Expr, lane: Expr, column: Expr) -> None:
            fresh = i32(1) - old

            def ours(number: int) -> Expr:
                return inputs[time, row, i32(number * hidden) + column]

            def theirs(number: int) -> Expr:
                added = cast(bias[i32(number * hidden) + column], dtype)
                return sums[i32(number), row, lane] + added

            def become(number: int, function: str, value: Expr) -> None:
                _activate(code, sums, (i32(number), row, lane), value, function, dtype)

            reset, keep, new = (sums[i32(number), row, lane] for number in range(3))
            become(0, "sigmoid", ours(0) + theirs(0))
            become(1, "sigmoid", ours(1) + theirs(1))
            become(2, "tanh", ours(2) + reset * theirs(2))
            mixed = (const(1.0, dtype) - keep) * new + keep * state[old, row, column]
            code.store(state, (fresh, row, column), mixed)
            code.store(y, (time, row, column), state[fresh, row, column])

        _run(scan, weight, state, unit)
        _copy_last(scan, state, last_h)

    wide_types = [type.with_dtype(dtype) for type in results]
    scanned = loop_nest("gru", [projected, tensors[1], tensors[3], tensors[5]], wide_types, body)
    return [rounded(tensor, type) for tensor, type in zip(scanned, results, strict=True)]


LOWER: Mapping[type[Op], Lowering] = {Lstm: _lstm, Gru: _gru}
