"""What a node costs: floating-point operations and bytes moved, exact for its shapes.

A multiply-add is two operations, any other function of numbers is one; moving is none. Bytes are
those of a kernel that reads its inputs once and keeps nothing between nodes: a Task moves its own
inputs and outputs, not what flows inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.ops import (
    ELEMENTWISE,
    AdaptiveAvgPool,
    ArgMax,
    ArgMin,
    Attention,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    CumProd,
    CumSum,
    Dequantize,
    EmbeddingBag,
    Expand,
    Flip,
    GatherElements,
    GatherNd,
    GridSample,
    GroupNorm,
    Gru,
    Interpolation,
    LayerNorm,
    Linear,
    LogSoftmax,
    Lstm,
    MatMul,
    MaxPool,
    MaxPoolIndices,
    Op,
    Pad,
    Quantize,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Reduction,
    Requantize,
    Reshape,
    Resize,
    RmsNorm,
    ScatterElements,
    ScatterNd,
    Slice,
    Softmax,
    Sort,
    Take,
    Task,
    TopK,
    Transpose,
    ew,
)
from optc.ir.ops.contraction import spatial_axes
from optc.ir.types import TensorType

Types = tuple[TensorType, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations, and bytes read and written; costs add up."""

    flops: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def bytes(self) -> int:
        """Bytes moved either way."""
        return self.bytes_read + self.bytes_written

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
        )


def cost(node: Node) -> Cost:
    """Cost of one node; raises KeyError for an op that has no entry in `FLOPS`."""
    inputs, outputs = _types(node)
    written = 0 if isinstance(node.op, Reshape) else sum(item.nbytes for item in outputs)
    return Cost(FLOPS[type(node.op)](node.op, inputs, outputs), sum(reads(node)), written)


def reads(node: Node) -> tuple[int, ...]:
    """Bytes that a node reads of each of its inputs."""
    return _reads(node.op, *_types(node))


def compute_dtype(node: Node) -> DType:
    """The dtype whose multiply-adds a node's time goes to: of its largest contraction's operands.

    Casts are seen through, since a kernel may load what is narrow and widen it in registers; of two
    operands the wider counts: bytes times floats are floats. f32 where nothing is contracted.
    """
    nodes = node.op.body.nodes if isinstance(node.op, Task) else (node,)
    products = [item for item in nodes if isinstance(item.op, _CONTRACTIONS)]
    if not products:
        return DType.F32
    largest = max(products, key=lambda item: FLOPS[type(item.op)](item.op, *_types(item)))
    casts = {item.output: item.inputs[0] for item in nodes if isinstance(item.op, ew.Cast)}
    dtypes = [casts.get(value, value).type.dtype for value in largest.inputs[:2]]
    return max(dtypes, key=lambda dtype: (dtype.is_float, dtype.bits))


_CONTRACTIONS = (Linear, MatMul, Conv, ConvTranspose, Attention)


def total(nodes: Iterable[Node]) -> Cost:
    """Cost of all nodes together."""
    return sum(map(cost, nodes), Cost())


def _types(node: Node) -> tuple[Types, Types]:
    return tuple(v.type for v in node.inputs), tuple(v.type for v in node.outputs)


# Operations, by op.


def _free(_op: Op, _inputs: Types, _outputs: Types) -> int:
    return 0


def _per_output(count: int) -> Callable[[Op, Types, Types], int]:
    return lambda _op, _inputs, outputs: count * outputs[0].elements


def _per_input(count: int) -> Callable[[Op, Types, Types], int]:
    return lambda _op, inputs, _outputs: count * inputs[0].elements


def _matmul(_: MatMul, inputs: Types, outputs: Types) -> int:
    return 2 * outputs[0].elements * inputs[0].shape[-1]


def _linear(_: Linear, inputs: Types, outputs: Types) -> int:
    return 2 * outputs[0].elements * inputs[0].shape[-1] + _bias(inputs, outputs)


def _conv(op: Conv, inputs: Types, outputs: Types) -> int:
    """Multiply-adds with numbers: what a tap reads of the padding is left out by every kernel."""
    x, weight, y = inputs[0], inputs[1], outputs[0]
    taps = 1
    for axis, stride, (low, _), dilation, kernel in zip(
        spatial_axes(x.rank, op.channels_last), op.stride, op.padding, op.dilation,
        weight.shape[2:], strict=True,
    ):  # fmt: skip
        starts = (place * stride - low for place in range(y.shape[axis]))
        taps *= sum(_inside(start, dilation, kernel, x.shape[axis]) for start in starts)
    return 2 * x.shape[0] * math.prod(weight.shape[:2]) * taps + _bias(inputs, outputs)


def _inside(start: int, dilation: int, kernel: int, extent: int) -> int:
    """How many of `kernel` taps from `start` on lie within `extent`."""
    first = max(0, -(start // dilation)) if start < 0 else 0
    last = min(kernel, (extent - 1 - start) // dilation + 1)
    return max(0, last - first)


def _conv_transpose(_: ConvTranspose, inputs: Types, outputs: Types) -> int:
    return 2 * inputs[0].elements * math.prod(inputs[1].shape[1:]) + _bias(inputs, outputs)


def _bias(inputs: Types, outputs: Types) -> int:
    return outputs[0].elements if len(inputs) > 2 else 0


def _attention(op: Attention, inputs: Types, outputs: Types) -> int:
    q, k, v = inputs[:3]
    rows, columns = q.shape[-2], k.shape[-2]
    seen = sum(min(row + 1, columns) for row in range(rows)) if op.causal else rows * columns
    softmax = 4 + len(inputs[3:])
    return math.prod(q.shape[:-2]) * seen * (2 * q.shape[-1] + 2 * v.shape[-1] + softmax)


def _window(op: MaxPool | MaxPoolIndices | AvgPool, _: Types, outputs: Types) -> int:
    return math.prod(op.kernel) * outputs[0].elements


def _adaptive(op: AdaptiveAvgPool, inputs: Types, outputs: Types) -> int:
    x, y = inputs[0], outputs[0]
    axes = spatial_axes(x.rank, op.channels_last)
    spans = [
        sum(-(-(i + 1) * x.shape[axis] // y.shape[axis]) - i * x.shape[axis] // y.shape[axis]
            for i in range(y.shape[axis]))
        for axis in axes
    ]  # fmt: skip
    planes = y.elements // max(1, math.prod(y.shape[axis] for axis in axes))
    return planes * math.prod(spans)


_TAPS = {Interpolation.NEAREST: 0, Interpolation.LINEAR: 2, Interpolation.CUBIC: 4}


def _resize(op: Resize, _: Types, outputs: Types) -> int:
    taps: int = _TAPS[op.mode] ** len(op.size)
    return 2 * taps * outputs[0].elements


def _grid_sample(op: GridSample, _: Types, outputs: Types) -> int:
    return 2 * _TAPS[op.mode] ** 2 * outputs[0].elements


def _recurrent(gates: int, activations: int) -> Callable[[Op, Types, Types], int]:
    def flops(_: Op, inputs: Types, outputs: Types) -> int:
        (steps, batch, width), hidden = inputs[0].shape, inputs[1].shape[1]
        macs = gates * hidden * (width + hidden)
        return steps * batch * (2 * macs + (2 * gates + activations) * hidden)

    return flops


def _embedding_bag(_: EmbeddingBag, inputs: Types, __: Types) -> int:
    return inputs[1].elements * inputs[0].shape[1] * len(inputs[2:])


def _scatter(op: ScatterElements | ScatterNd, inputs: Types, _: Types) -> int:
    if op.reduction is Reduction.NONE:
        return 0
    # Updates may reach beyond the indices, and then are not used.
    return inputs[1 if isinstance(op, ScatterElements) else 2].elements


def _sort(op: Sort | TopK, inputs: Types, _: Types) -> int:
    extent = inputs[0].shape[op.axis]
    return inputs[0].elements * max(1, math.ceil(math.log2(max(extent, 1))))


def _task(op: Task, _: Types, __: Types) -> int:
    return sum(FLOPS[type(node.op)](node.op, *_types(node)) for node in op.body.nodes)


FLOPS: Mapping[type[Op], Callable[[Any, Types, Types], int]] = {
    **dict.fromkeys(ELEMENTWISE, _per_output(1)),
    **dict.fromkeys((ew.Cast, ew.Where), _free),
    **dict.fromkeys((ew.Silu, ew.HardSwish, ew.HardSigmoid, ew.Gelu, ew.Clamp), _per_output(2)),
    **dict.fromkeys((Reshape, Transpose, Expand, Slice, Flip, Pad, Concat), _free),
    **dict.fromkeys((Take, GatherElements, GatherNd), _free),
    **dict.fromkeys((ScatterElements, ScatterNd), _scatter),
    **dict.fromkeys((ReduceSum, ReduceMean, ReduceProd, ReduceMax, ReduceMin), _per_input(1)),
    **dict.fromkeys((ReduceAny, ReduceAll, CumSum, CumProd, ArgMax, ArgMin), _per_input(1)),
    **dict.fromkeys((Sort, TopK), _sort),
    MatMul: _matmul,
    Linear: _linear,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    Attention: _attention,
    **dict.fromkeys((MaxPool, MaxPoolIndices, AvgPool), _window),
    AdaptiveAvgPool: _adaptive,
    BatchNorm: _per_input(4),
    LayerNorm: _per_input(7),
    RmsNorm: _per_input(4),
    GroupNorm: _per_input(7),
    Softmax: _per_input(4),
    LogSoftmax: _per_input(4),
    **dict.fromkeys((Quantize, Requantize), _per_output(5)),
    Dequantize: _per_output(2),
    Resize: _resize,
    GridSample: _grid_sample,
    Lstm: _recurrent(4, 9),
    Gru: _recurrent(3, 8),
    EmbeddingBag: _embedding_bag,
    Task: _task,
}


# Bytes read, for the ops that do not read all of every input.


def _reads(op: Op, inputs: Types, outputs: Types) -> tuple[int, ...]:
    """Bytes read from each input."""
    rule = READS.get(type(op))
    return rule(op, inputs, outputs) if rule else tuple(item.nbytes for item in inputs)


def _as_much_as_written(_: Op, inputs: Types, outputs: Types) -> tuple[int, ...]:
    """Data and indices: each element of the output is one of the data."""
    rest = tuple(item.nbytes for item in inputs[1:])
    return (min(inputs[0].nbytes, outputs[0].nbytes), *rest)


def _bag_reads(_: EmbeddingBag, inputs: Types, __: Types) -> tuple[int, ...]:
    weight, *rest = inputs
    rows = weight.with_shape((inputs[1].elements, weight.shape[1]))
    return (min(weight.nbytes, rows.nbytes), *(item.nbytes for item in rest))


def _task_reads(op: Task, inputs: Types, _: Types) -> tuple[int, ...]:
    """What the body reads of each input, at most once over."""
    read = dict.fromkeys(op.body.inputs, 0)
    for node in op.body.nodes:
        for value, count in zip(node.inputs, _reads(node.op, *_types(node)), strict=True):
            # What a reshape views is read by the view's users, whose share is not known here.
            read[value] = read.get(value, 0) + (count or value.type.nbytes)
    pairs = zip(op.body.inputs, inputs, strict=True)
    return tuple(min(read[value], item.nbytes) for value, item in pairs)


READS: Mapping[type[Op], Callable[[Any, Types, Types], tuple[int, ...]]] = {
    Reshape: lambda _op, _inputs, _outputs: (0,),
    Slice: _as_much_as_written,
    Take: _as_much_as_written,
    GatherElements: _as_much_as_written,
    GatherNd: _as_much_as_written,
    EmbeddingBag: _bag_reads,
    Task: _task_reads,
}
