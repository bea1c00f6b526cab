"""How each op runs on values with channels last: the table behind `assign-layout`."""

from __future__ import annotations

from dataclasses import replace

from optc.ir import ops
from optc.ir.graph import Node, Value
from optc.ir.ops import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Expand,
    Flip,
    GroupNorm,
    LogSoftmax,
    MaxPool,
    Pad,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
)
from optc.passes.layout.layout import Layout, Rules, to_first, to_last


def _windowed(node: Node, layout: Layout) -> bool:
    """Ops that carry the layout themselves; only the first input has channels."""
    if node.op.channels_last:  # type: ignore[attr-defined]
        return False
    op = replace(node.op, channels_last=True)  # type: ignore[call-arg]
    others = [layout.first(value) for value in node.inputs[1:]]
    value = layout.builder.emit(op, layout.last(node.inputs[0]), *others, hint=node.output.hint)
    layout.set_last(node.output, value)
    return True


def _elementwise(node: Node, layout: Layout) -> bool:
    rank = node.output.type.rank
    if rank < 3 or any(layout.is_last(v) and v.type.rank != rank for v in node.inputs):
        return False
    # A large operand that would have to be transposed for this: as much work as going back.
    strangers = [v for v in node.inputs if not _free(v, layout)]
    if sum(v.type.elements for v in strangers) > sum(
        v.type.elements for v in node.inputs if layout.is_last(v)
    ):
        return False
    inputs = [_aligned(value, rank, layout) for value in node.inputs]
    layout.set_last(node.output, layout.builder.emit(node.op, *inputs, hint=node.output.hint))
    return True


def _free(value: Value, layout: Layout) -> bool:
    return layout.is_last(value) or layout.constant_of(value) or value.type.elements == 1


def _aligned(value: Value, rank: int, layout: Layout) -> Value:
    """An operand with channels last; one of lower rank gets leading axes of extent 1 first."""
    if value.type.elements == 1 and not layout.is_last(value):
        return layout.first(value)
    if value.type.rank == rank:
        return layout.last(value)
    shape = (1,) * (rank - value.type.rank) + value.shape
    full = layout.builder.emit(Reshape(shape=shape), layout.first(value), hint=value.hint)
    return layout.moved(full)


def _concat(node: Node, layout: Layout) -> bool:
    ready = sum(value.type.elements for value in node.inputs if _free(value, layout))
    if 2 * ready < node.output.type.elements:
        return False
    op = Concat(axis=_place(node.op.axis, node.output.type.rank))  # type: ignore[attr-defined]
    inputs = [layout.last(value) for value in node.inputs]
    layout.set_last(node.output, layout.builder.emit(op, *inputs, hint=node.output.hint))
    return True


def _place(axis: int, rank: int) -> int:
    """Where an axis goes when channels go last."""
    return to_last(rank).index(axis)


def _per_axis(node: Node, layout: Layout) -> bool:
    """Ops whose tuples have one entry per axis, or whose axes are listed."""
    order = to_last(node.inputs[0].type.rank)
    match node.op:
        case Pad(low, high):
            fields = {"low": _moved(low, order), "high": _moved(high, order)}
        case Slice(starts, stops, steps):
            parts = (starts, stops, steps)
            fields = dict(
                zip(("starts", "stops", "steps"), (_moved(p, order) for p in parts), strict=True)
            )
        case Flip(axes):
            fields = {"axes": tuple(sorted(order.index(axis) for axis in axes))}
        case Expand(shape) if len(shape) == len(order):
            fields = {"shape": _moved(shape, order)}
        case _:
            return False
    op = replace(node.op, **fields)  # type: ignore[arg-type]
    value = layout.builder.emit(op, layout.last(node.inputs[0]), hint=node.output.hint)
    layout.set_last(node.output, value)
    return True


def _moved(items: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(items[axis] for axis in order)


def _softmax(node: Node, layout: Layout) -> bool:
    axis = _place(node.op.axis, node.output.type.rank)  # type: ignore[attr-defined]
    value = layout.last(node.inputs[0])
    op = replace(node.op, axis=axis)  # type: ignore[call-arg]
    layout.set_last(node.output, layout.builder.emit(op, value, hint=node.output.hint))
    return True


def _reduce(node: Node, layout: Layout) -> bool:
    order = to_last(node.inputs[0].type.rank)
    axes: tuple[int, ...] = node.op.axes  # type: ignore[attr-defined]
    op = replace(node.op, axes=tuple(sorted(order.index(axis) for axis in axes)))  # type: ignore[call-arg]
    keeps = node.op.keepdims  # type: ignore[attr-defined]
    left = [axis for axis in order if axis not in axes]
    if not keeps and left != sorted(left) and len(left) < 3:
        return False
    value = layout.builder.emit(op, layout.last(node.inputs[0]), hint=node.output.hint)
    if keeps:
        layout.set_last(node.output, value)
    elif left == sorted(left):
        layout.set_first(node.output, value)
    elif left == [sorted(left)[axis] for axis in to_last(len(left))]:
        layout.set_last(node.output, value)
    else:
        back = tuple(left.index(axis) for axis in sorted(left))
        value = layout.builder.emit(Transpose(perm=back), value, hint=node.output.hint)
        layout.set_first(node.output, value)
    return True


def _transpose(node: Node, layout: Layout) -> bool:
    """Compose with the order that the elements are in; often nothing is left to do."""
    value = layout.last(node.inputs[0])
    order = to_last(value.type.rank)
    perm = tuple(order.index(axis) for axis in node.op.perm)  # type: ignore[attr-defined]
    if perm == to_first(value.type.rank):
        return False  # its input as written, which may be at hand
    if perm == tuple(range(len(perm))):
        layout.set_first(node.output, value)
    else:
        layout.set_first(
            node.output, layout.builder.emit(Transpose(perm=perm), value, hint=node.output.hint)
        )
    return True


def _reshape(node: Node, layout: Layout) -> bool:
    """Reshapes that leave batch and channels alone, and flattening when there is one pixel."""
    old, new = node.inputs[0].shape, node.output.shape
    value = layout.last(node.inputs[0])
    if not Transpose(perm=to_last(len(old))).moves(old):
        layout.set_first(node.output, layout.builder.emit(node.op, value, hint=node.output.hint))
        return True
    if len(new) < 3 or new[:2] != old[:2]:
        return False
    op = Reshape(shape=(new[0], *new[2:], new[1]))
    layout.set_last(node.output, layout.builder.emit(op, value, hint=node.output.hint))
    return True


_REDUCES = (ReduceSum, ReduceMean, ReduceProd, ReduceMax, ReduceMin, ReduceAny, ReduceAll)
_WINDOWED = (Conv, ConvTranspose, MaxPool, AvgPool, AdaptiveAvgPool, BatchNorm, GroupNorm, Resize)

RULES: Rules = {
    **dict.fromkeys(_WINDOWED, _windowed),
    **dict.fromkeys((*ops.ELEMENTWISE, *ops.QUANTIZATION), _elementwise),
    **dict.fromkeys((Pad, Slice, Flip, Expand), _per_axis),
    **dict.fromkeys((Softmax, LogSoftmax), _softmax),
    **dict.fromkeys(_REDUCES, _reduce),
    Concat: _concat,
    Transpose: _transpose,
    Reshape: _reshape,
}
