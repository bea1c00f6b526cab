"""A task as stages: tensors that are stored somewhere, in the order in which they are computed.

Everything else is inlined into its readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Call, Expr
from tvm.te.tensor import Operation

_DEAR = frozenset({"tirx.call_pure_extern", "tirx.exp", "tirx.log", "tirx.tanh", "tirx.pow"})
_MANY_OPERATIONS = 12


def stages_of(outputs: Sequence[te.Tensor]) -> tuple[Operation, ...]:
    """The computations whose results are stored, in order; the last are those of `outputs`.

    Stored are outputs, folds, hand-written loops and what those read, and elements that are dear to
    compute and would be computed more than once.
    """
    order = _in_order(outputs)
    work = _work_of(order)
    readers: dict[Operation, list[Operation]] = {op: [] for op in order}
    for op in order:
        for source in dict.fromkeys(tensor.op for tensor in op.input_tensors):
            readers[source].append(op)
    wanted = {tensor.op for tensor in outputs}
    homes: dict[Operation, set[Operation]] = {}  # the stages that an op is computed in
    stored: list[Operation] = []
    for op in reversed(order):
        users = readers[op]
        places = {home for user in users for home in homes[user]}
        if op in wanted or _is_stored(op, users, places, work):
            stored.append(op)
            places = {op}
        homes[op] = places
    return tuple(reversed(stored))


def _is_stored(
    op: Operation,
    readers: Sequence[Operation],
    places: set[Operation],
    work: Mapping[Operation, int],
) -> bool:
    if isinstance(op, te.PlaceholderOp):
        return False
    if not isinstance(op, te.ComputeOp) or op.reduce_axis:
        return True
    if any(not isinstance(reader, te.ComputeOp) for reader in readers):
        return True
    if work[op] < _MANY_OPERATIONS:
        return False
    points = _points(op)
    repeated = any(_points(reader) > points or not _in_place(reader, op) for reader in readers)
    return repeated or len(places) > 1


def _points(op: te.ComputeOp) -> int:
    return math.prod(int(axis.dom.extent) for axis in (*op.axis, *op.reduce_axis))


def _in_place(reader: te.ComputeOp, source: Operation) -> bool:
    """Whether all loads of `source` are at one index."""
    indices: list[list[Expr]] = []

    def call(item: Call) -> None:
        if item.op.name == "te.tensor_load" and item.args[0].op.same_as(source):
            indices.append(list(item.args[1:]))

    tvm_ffi.structural_walk(list(reader.body), (Call, call))
    return all(all(map(tvm_ffi.structural_equal, indices[0], other)) for other in indices)


def _in_order(outputs: Sequence[te.Tensor]) -> list[Operation]:
    order: list[Operation] = []
    seen: set[Operation] = set()
    pending = [(tensor.op, False) for tensor in reversed(outputs)]
    while pending:
        op, ready = pending.pop()
        if ready:
            order.append(op)
        elif op not in seen:
            seen.add(op)
            pending.append((op, True))
            pending += [(t.op, False) for t in reversed(list(op.input_tensors))]
    return order


def _work_of(order: Sequence[Operation]) -> Mapping[Operation, int]:
    """Operations per element, with those of the sources that are inlined into it."""
    work: dict[Operation, int] = {}
    for op in order:
        work[op] = 0
        if isinstance(op, te.ComputeOp) and not op.reduce_axis:
            sources = dict.fromkeys(tensor.op for tensor in op.input_tensors)
            work[op] = _operations(op) + sum(work[source] for source in sources)
    return work


def _operations(op: te.ComputeOp) -> int:
    operations = 0

    def call(item: Call) -> None:
        nonlocal operations
        operations += _MANY_OPERATIONS if item.op.name in _DEAR else 1

    def let(_: tirx.Let) -> None:
        nonlocal operations
        operations += _MANY_OPERATIONS // 2  # a step of a function in vector registers

    tvm_ffi.structural_walk(list(op.body), [(Call, call), (tirx.Let, let)])
    return operations
