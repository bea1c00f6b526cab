"""Matrix products and convolutions as plain reductions; templates replace them with tiled kernels.

Halves are multiplied and summed in f32, bytes in i32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm import te, tirx
from tvm.ir import Expr

from optc.backends.tvm.lower.attention import attention
from optc.backends.tvm.lower.element import (
    Lowering,
    Read,
    cast,
    compute,
    const,
    exact,
    i32,
    pinned,
    quotient,
    reader,
    wide,
)
from optc.backends.tvm.lower.movement import rows_of, within
from optc.backends.tvm.lower.reduction import sum_of
from optc.ir.dtype import DType
from optc.ir.ops import Attention, Conv, ConvTranspose, Linear, MatMul, Op
from optc.ir.ops.contraction import BYTES, Pairs
from optc.ir.types import TensorType

Tensors = Sequence[te.Tensor]
Types = Sequence[TensorType]


def factors(x: Read, weight: Read, types: Types) -> tuple[Read, Read]:
    """Both sides of a product in the dtype it is summed in: bytes become i32."""
    if types[0].dtype not in BYTES or types[1].dtype not in BYTES:
        return x, weight
    return _as_i32(x), _as_i32(weight)


def _as_i32(read: Read) -> Read:
    return lambda *index: cast(read(*index), DType.I32)


def _matmul(op: MatMul, tensors: Tensors, types: Types) -> Tensors:
    (a, b), (result,) = types, op.infer(*types)
    left, right = factors(reader(tensors[0], a), reader(tensors[1], b), types)
    inner, total = te.reduce_axis((0, a.shape[-1]), "k"), sum_of(wide(result.dtype))

    def element(*index: Expr) -> Expr:
        *batch, row, column = index
        tail = (column, inner.var) if op.transpose_b else (inner.var, column)
        x = left(*pinned(batch, a.shape[:-2]), row, inner.var)
        return total(x * right(*pinned(batch, b.shape[:-2]), *tail), axis=inner)

    return [compute(op.name, result, element)]


def _linear(op: Linear, tensors: Tensors, types: Types) -> Tensors:
    (result,) = op.infer(*types)
    x, weight = factors(reader(tensors[0], types[0]), reader(tensors[1], types[1]), types)
    inner = te.reduce_axis((0, types[1].shape[1]), "k")

    def element(*index: Expr) -> Expr:
        *rows, column = index
        return te.sum(x(*rows, inner.var) * weight(column, inner.var), axis=inner)

    product = te.compute(result.shape, element, name="linear")
    return [_with_bias(product, result, tensors[2:], types[2:], -1)]


def _with_bias(
    product: te.Tensor, result: TensorType, biases: Tensors, types: Types, axis: int
) -> te.Tensor:
    """The product, plus the bias of the channel on `axis` if there is one, rounded."""
    name = str(product.op.name)
    if not biases:
        read = exact(product)
        if wide(result.dtype) is result.dtype:
            return product
        return compute(name, result, read)
    bias = reader(biases[0], types[0])
    return compute(f"{name}_bias", result, lambda *index: product(*index) + bias(index[axis]))


def padded(x: te.Tensor, type: TensorType, padding: Pairs, channels_last: bool) -> Read:
    """Reads x with zeros around its spatial axes: a stage of its own, so no inner loop branches."""
    read = reader(x, type)
    if not any(low or high for low, high in padding):
        return read
    first = 1 if channels_last else 2
    low, high = [0] * type.rank, [0] * type.rank
    for axis, (before, after) in enumerate(padding, first):
        low[axis], high[axis] = before, after
    zero = const(0, wide(type.dtype))
    rows = rows_of(type.shape, low, high)

    def element(*index: Expr) -> Expr:
        places = [i - i32(before) for i, before in zip(index, low, strict=True)]
        return within(places, rows, read(*places), zero)

    shape = [dim + a + b for dim, a, b in zip(type.shape, low, high, strict=True)]
    return exact(te.compute(tuple(shape), element, name="padded"))


def image_index(
    batch: Expr, channel: Expr, spatial: Sequence[Expr], channels_last: bool
) -> list[Expr]:
    """The index tuple in the layout asked for."""
    return [batch, *spatial, channel] if channels_last else [batch, channel, *spatial]


def split_index(index: Sequence[Expr], channels_last: bool) -> tuple[Expr, Expr, Sequence[Expr]]:
    """(batch, channel, spatial) of an image's index tuple."""
    if channels_last:
        return index[0], index[-1], index[1:-1]
    return index[0], index[1], index[2:]


def _conv(op: Conv, tensors: Tensors, types: Types) -> Tensors:
    (result,), weights = op.infer(*types), types[1].shape
    image = padded(tensors[0], types[0], op.padding, op.channels_last)
    x, weight = factors(image, reader(tensors[1], types[1]), types)
    channel = te.reduce_axis((0, weights[1]), "c")
    taps = [te.reduce_axis((0, extent), f"k{i}") for i, extent in enumerate(weights[2:])]
    group_size = weights[0] // op.groups

    def element(*index: Expr) -> Expr:
        batch, output, spatial = split_index(index, op.channels_last)
        places = [
            place * i32(stride) + tap.var * i32(dilation)
            for place, stride, tap, dilation in zip(
                spatial, op.stride, taps, op.dilation, strict=True
            )
        ]
        source = _grouped(output, group_size, op.groups, channel.var, weights[1])
        product = x(*image_index(batch, source, places, op.channels_last)) * weight(
            output, channel.var, *(tap.var for tap in taps)
        )
        return te.sum(product, axis=[channel, *taps])

    product = te.compute(result.shape, element, name="conv")
    axis = -1 if op.channels_last else 1
    return [_with_bias(product, result, tensors[2:], types[2:], axis)]


def _grouped(output: Expr, group_size: int, groups: int, inner: Expr, width: int) -> Expr:
    """The input channel that the `inner`-th weight of an output channel reads."""
    if groups == 1:
        return inner
    return quotient(output, group_size, group_size * groups) * i32(width) + inner


def _conv_transpose(op: ConvTranspose, tensors: Tensors, types: Types) -> Tensors:
    """Each output gathers the taps that reach it: undilated, every stride-th of the kernel."""
    (result,), (x, weights) = op.infer(*types), types[:2]
    image, weight = factors(reader(tensors[0], x), reader(tensors[1], weights), types)
    per_group = weights.shape[0] // op.groups
    channel = te.reduce_axis((0, per_group), "c")
    extents = split_shape(x.shape, op.channels_last)[2]
    kernel = weights.shape[2:]
    phased = [dilation == 1 for dilation in op.dilation]
    counts = [
        -(-extent // stride) if phase else extent
        for extent, stride, phase in zip(kernel, op.stride, phased, strict=True)
    ]
    taps = [te.reduce_axis((0, count), f"k{i}") for i, count in enumerate(counts)]

    def element(*index: Expr) -> Expr:
        batch, output, spatial = split_index(index, op.channels_last)
        places: list[Expr] = []
        tap_places: list[Expr] = []
        conditions: list[Expr] = []
        for i, place in enumerate(spatial):
            stride, reached = i32(op.stride[i]), place + i32(op.padding[i][0])
            if phased[i]:
                tap = tirx.indexmod(reached, stride) + taps[i].var * stride
                source = tirx.indexdiv(reached, stride) - taps[i].var
                conditions += [tap < i32(kernel[i])] if kernel[i] % op.stride[i] else []
            else:
                tap = taps[i].var
                offset = reached - tap * i32(op.dilation[i])
                source = tirx.floordiv(offset, stride)
                conditions.append(tirx.floormod(offset, stride) == i32(0))
            conditions += [source >= i32(0), source < i32(extents[i])]
            places.append(source)
            tap_places.append(tap)
        group = quotient(output, weights.shape[1], weights.shape[1] * op.groups)
        source_channel = channel.var if op.groups == 1 else group * i32(per_group) + channel.var
        inner = output if op.groups == 1 else tirx.indexmod(output, i32(weights.shape[1]))
        product = image(*image_index(batch, source_channel, places, op.channels_last)) * weight(
            source_channel, inner, *tap_places
        )
        zero = const(0, wide(result.dtype))
        return te.sum(
            tirx.if_then_else(tirx.all(*conditions), product, zero), axis=[channel, *taps]
        )

    product = te.compute(result.shape, element, name="conv_transpose")
    axis = -1 if op.channels_last else 1
    return [_with_bias(product, result, tensors[2:], types[2:], axis)]


def split_shape(shape: Sequence[int], channels_last: bool) -> tuple[int, int, Sequence[int]]:
    """(batch, channels, extents) of an image's shape."""
    if channels_last:
        return shape[0], shape[-1], shape[1:-1]
    return shape[0], shape[1], shape[2:]


LOWER: Mapping[type[Op], Lowering] = {
    MatMul: _matmul,
    Linear: _linear,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    Attention: attention,
}
