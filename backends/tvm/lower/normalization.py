"""Normalisations in two passes over the data: the mean first, then the spread around it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tvm import te
from tvm.ir import Expr

from optc.backends.tvm.lower import functions as fn
from optc.backends.tvm.lower.element import (
    Lowering,
    Read,
    compute,
    const,
    exact,
    i32,
    quotient,
    reader,
    wide,
)
from optc.backends.tvm.lower.reduction import fold, quiet_max_of
from optc.ir.ops import BatchNorm, GroupNorm, LayerNorm, LogSoftmax, Op, RmsNorm, Softmax
from optc.ir.types import TensorType

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]


def _batch_norm(op: BatchNorm, tensors: Tensors, types: Types) -> Tensors:
    x, dtype = types[0], wide(types[0].dtype)
    reads = [reader(tensor, type) for tensor, type in zip(tensors, types, strict=True)]

    def element(*index: Expr) -> Expr:
        channel = index[-1] if op.channels_last else index[1]
        mean, variance, scale, bias = (read(channel) for read in reads[1:])
        spread = fn.sqrt(variance + const(op.epsilon, dtype), dtype)
        return (reads[0](*index) - mean) / spread * scale + bias

    return [compute(op.name, x, element)]


def _moments(
    type: TensorType, axes: Sequence[int], read: Read, epsilon: float
) -> tuple[te.Tensor, te.Tensor]:
    """Mean and 1 / sqrt(variance + epsilon) over `axes`, kept with extent 1."""
    count = const(float(math.prod(type.shape[axis] for axis in axes)), type.dtype)
    total = fold("sum", type, axes, read, te.sum, True)
    shape = tuple(total.shape)
    mean = te.compute(shape, lambda *index: total(*index) / count, name="mean")

    def square(*index: Expr) -> Expr:
        apart = read(*index) - mean(*_pin(index, axes))
        return apart * apart

    squares = fold("square_sum", type, axes, square, te.sum, True)
    return mean, _inverse(squares, count, epsilon, type)


def _inverse(squares: te.Tensor, count: Expr, epsilon: float, type: TensorType) -> te.Tensor:
    """1 / sqrt(squares / count + epsilon)."""
    small, one = const(epsilon, type.dtype), const(1.0, type.dtype)
    return te.compute(
        tuple(squares.shape),
        lambda *index: one / fn.sqrt(squares(*index) / count + small, type.dtype),
        name="inverse_spread",
    )


def _pin(index: Sequence[Expr], axes: Sequence[int]) -> list[Expr]:
    return [i32(0) if axis in axes else place for axis, place in enumerate(index)]


def _layer_norm(op: LayerNorm, tensors: Tensors, types: Types) -> Tensors:
    x = types[0].with_dtype(wide(types[0].dtype))
    read, axes = reader(tensors[0], types[0]), range(x.rank - op.axes, x.rank)
    mean, inverse = _moments(x, axes, read, op.epsilon)
    affine = [reader(t, type) for t, type in zip(tensors[1:], types[1:], strict=True)]

    def element(*index: Expr) -> Expr:
        pin, tail = _pin(index, axes), index[x.rank - op.axes :]
        return _affine((read(*index) - mean(*pin)) * inverse(*pin), affine, tail)

    return [compute(op.name, types[0], element)]


def _affine(value: Expr, affine: Sequence[Read], index: Sequence[Expr]) -> Expr:
    """value [* weight [+ bias]]."""
    if affine:
        value = value * affine[0](*index)
    return value + affine[1](*index) if len(affine) > 1 else value


def _rms_norm(op: RmsNorm, tensors: Tensors, types: Types) -> Tensors:
    x = types[0].with_dtype(wide(types[0].dtype))
    read, axes = reader(tensors[0], types[0]), range(x.rank - op.axes, x.rank)
    affine = [reader(t, type) for t, type in zip(tensors[1:], types[1:], strict=True)]
    squares = fold("square_sum", x, axes, lambda *index: read(*index) * read(*index), te.sum, True)
    count = const(float(math.prod(x.shape[x.rank - op.axes :])), x.dtype)
    inverse = _inverse(squares, count, op.epsilon, x)

    def element(*index: Expr) -> Expr:
        normal = read(*index) * inverse(*_pin(index, axes))
        return _affine(normal, affine, index[x.rank - op.axes :])

    return [compute(op.name, types[0], element)]


def _group_norm(op: GroupNorm, tensors: Tensors, types: Types) -> Tensors:
    """x is read as [N, groups, channels of a group, *spatial] to find the moments."""
    x, dtype = types[0], wide(types[0].dtype)
    read, last = reader(tensors[0], x), op.channels_last
    channels = x.shape[-1] if last else x.shape[1]
    width = channels // op.groups
    extents = x.shape[1:-1] if last else x.shape[2:]
    axis = len(extents) + 1 if last else 1
    shape = (x.shape[0], *extents, op.groups, width) if last else (
        x.shape[0], op.groups, width, *extents
    )  # fmt: skip

    def grouped(*index: Expr) -> Expr:
        channel = index[axis] * i32(width) + index[axis + 1]
        return read(*index[:axis], channel, *index[axis + 2 :])

    folded = [i for i in range(1, len(shape)) if i != axis]
    mean, inverse = _moments(TensorType(shape, dtype), folded, grouped, op.epsilon)
    affine = [reader(t, type) for t, type in zip(tensors[1:], types[1:], strict=True)]

    def element(*index: Expr) -> Expr:
        channel = index[axis]
        pin = [i32(0)] * len(shape)
        pin[0], pin[axis] = index[0], quotient(channel, width, channels)
        return _affine((read(*index) - mean(*pin)) * inverse(*pin), affine, [channel])

    return [compute(op.name, x, element)]


def _softmax(op: Softmax, tensors: Tensors, types: Types) -> Tensors:
    x = types[0].with_dtype(wide(types[0].dtype))
    read, axes = reader(tensors[0], types[0]), [op.axis]
    peak = fold("softmax_max", x, axes, read, quiet_max_of(x.dtype), True)

    def power(*index: Expr) -> Expr:
        return fn.exp(read(*index) - peak(*_pin(index, axes)), x.dtype)

    powers = te.compute(x.shape, power, name="softmax_exp")
    total = fold("softmax_sum", x, axes, exact(powers), te.sum, True)

    def element(*index: Expr) -> Expr:
        return powers(*index) / total(*_pin(index, axes))

    return [compute(op.name, types[0], element)]


def _log_softmax(op: LogSoftmax, tensors: Tensors, types: Types) -> Tensors:
    x = types[0].with_dtype(wide(types[0].dtype))
    read, axes = reader(tensors[0], types[0]), [op.axis]
    peak = fold("softmax_max", x, axes, read, quiet_max_of(x.dtype), True)

    def power(*index: Expr) -> Expr:
        return fn.exp(read(*index) - peak(*_pin(index, axes)), x.dtype)

    total = fold("softmax_sum", x, axes, power, te.sum, True)

    def element(*index: Expr) -> Expr:
        pin = _pin(index, axes)
        return read(*index) - peak(*pin) - fn.log(total(*pin), x.dtype)

    return [compute(op.name, types[0], element)]


LOWER: Mapping[type[Op], Lowering] = {
    BatchNorm: _batch_norm,
    LayerNorm: _layer_norm,
    RmsNorm: _rms_norm,
    GroupNorm: _group_norm,
    Softmax: _softmax,
    LogSoftmax: _log_softmax,
}
