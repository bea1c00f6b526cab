"""From quantize and dequantize around float layers to layers of integers.

With x = (qx - zx) * sx and w = qw * sw, a layer's sum is sx * sw * (sum(qx * qw) - zx * sum(qw)):
the second term is a constant, which joins the bias (Jacob et al. 2018, section 2.3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.constant import Constant, constant, splat
from optc.ir.dtype import DType
from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import (
    AvgPool,
    Concat,
    Conv,
    ConvTranspose,
    Dequantize,
    Expand,
    Flip,
    Linear,
    MaxPool,
    Op,
    Pad,
    PadMode,
    Quantize,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    Requantize,
    Reshape,
    Resize,
    Slice,
    Transpose,
    ew,
)
from optc.ir.ops.contraction import BYTES
from optc.ir.ops.quantization import limits
from optc.ir.types import TensorType
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import made_by, number
from optc.passes.precision.affine import Affine
from optc.passes.precision.integer_means import mean_sums, padded
from optc.passes.precision.layers import output_shape, terms, weight_shape
from optc.passes.precision.placement import moves
from optc.passes.rewrite import Answer, Miss, Rules, Site, rewrite
from optc.passes.weights import known, numbers

_I32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Integerize(Pass):
    """Turn layers between dequantize and quantize into layers of integers with i32 sums.

    Zeros of activations and biases become one i32 bias; where a convolution pads an image whose
    zero is not 0, the padding is a Pad of that number in front. A sum that is quantized at once, or
    behind a clamp, is requantized with one multiplication; so is a mean, over axes or windows, as a
    sum of bytes. Movements of dequantized values move the integers, and what a concat joins is
    quantized before it. What computes in floats between integers is left to fusion.
    """

    name = "integerize"
    effect = Effect.LOSSY  # biases are rounded to units of the sums, and ties may fall apart

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with integer layers."""
        return rewrite(module, _RULES, ctx, code="N0330")


def _per_tensor(site: Site, node: Node | None) -> Affine | None:
    """The parameters of a node that has one scale and one zero for the tensor, both known."""
    if node is None:
        return None
    scale, zero = number(site, node.inputs[1]), number(site, node.inputs[2])
    dtype = node.inputs[2].type.dtype
    if scale is None or zero is None or node.inputs[1].type.rank or dtype is DType.I32:
        return None
    return Affine(float(scale), int(zero), dtype)


def _layer(node: Node, site: Site) -> Answer:
    x, weight = (made_by(site, value, Dequantize) for value in node.inputs[:2])
    if x is None or weight is None or node.output.type.dtype is not DType.F32:
        return None
    source = _per_tensor(site, x)
    if source is None or source.dtype not in BYTES:
        return Miss("its input has no scale and zero per tensor in 8 bits")
    reason = _weight_refusal(node, weight, site)
    if reason is not None:
        return Miss(reason)
    if isinstance(node.op, ConvTranspose) and source.zero:
        return Miss("its input's zero is not 0, and sums have unlike numbers of products")
    scale = (np.float32(source.scale) * numbers(site, weight.inputs[1])).astype(np.float32)
    bias = _bias(node, weight, source, scale, site)
    if bias is None:
        return Miss("its bias does not fit i32 in units of the sums")
    op, q = padded(node.op, x.inputs[0], source.zero, site)
    extra = [site.constant(bias, "bias")] if bias.array.any() else []
    sums = site.emit(op, q, _bytes(site, weight.inputs[0]), *extra)
    return _real(site, sums, scale.reshape(output_shape(node) if scale.ndim else ()))


def _bytes(site: Site, weight: Value) -> Value:
    """Kernels of bytes take bytes; the artifact stores those that fit in half of one so."""
    item = site.constant_of(weight)
    if weight.type.dtype is DType.I8 or item is None:
        return weight
    return site.constant(constant(item.array.astype(np.int8), DType.I8), weight.hint)


def _weight_refusal(node: Node, weight: Node, site: Site) -> str | None:
    q, scale, zero = weight.inputs
    if q.type.dtype not in (DType.I8, DType.I4) or not known(
        site, *weight.inputs, *node.inputs[2:]
    ):
        return "its weights are not constants in i8 or i4"
    if numbers(site, zero).any():
        return "the zero of its weights is not 0"
    if scale.type.rank and scale.shape != weight_shape(node):
        return "the scales of its weights are not one per output channel"
    if terms(node) * 255 * 128 >= 1 << 30:
        return f"sums of {terms(node)} products may not fit i32"
    return None


def _bias(
    node: Node, weight: Node, source: Affine, scale: NDArray[Any], site: Site
) -> Constant | None:
    """The layer's bias in units of its sums, less what the input's zero adds; None: too large."""
    shape = weight_shape(node)
    channels = int(np.prod(shape))
    total = np.zeros(channels)
    if len(node.inputs) > 2:
        unit = np.broadcast_to(scale.astype(np.float64), shape).reshape(-1)
        total = np.rint(numbers(site, node.inputs[2]) / unit)
    if source.zero:
        total = total - source.zero * numbers(site, weight.inputs[0]).reshape(channels, -1).sum(1)
    if not np.all((total >= _I32.min // 2) & (total <= _I32.max // 2)):
        return None
    return constant(total.astype(np.int32))


def _real(site: Site, sums: Value, scale: NDArray[Any]) -> Value:
    zero = site.constant(splat(0, TensorType((), DType.I32)), "zero")
    return site.emit(Dequantize(), sums, site.constant(constant(scale), "scale"), zero)


def _quantize(node: Node, site: Site) -> Answer:
    """Quantizing sums, perhaps behind clamps, is one multiplication; of integers, nothing."""
    goal = _per_tensor(site, node)
    if goal is None:
        return None
    value, bounds = _behind_clamps(node.inputs[0], site)
    maker = made_by(site, value, AvgPool, Concat, Dequantize, ReduceMean)
    if maker is None:
        return None
    if isinstance(maker.op, Dequantize):
        return _again(maker, node, bounds, goal, site)
    if isinstance(maker.op, Concat):
        return None if bounds else _before(maker, node, site)
    return _mean(maker, node, bounds, goal, site)


def _behind_clamps(value: Value, site: Site) -> tuple[Value, list[Op]]:
    """What clamps that nobody else reads limit, and the clamps, the last one first."""
    bounds = []
    while (clamp := made_by(site, value, ew.Relu, ew.Clamp)) is not None and site.uses(value) == 1:
        bounds.append(clamp.op)
        value = clamp.inputs[0]
    return value, bounds


def _again(source: Node, node: Node, bounds: list[Op], goal: Affine, site: Site) -> Answer:
    """What was dequantized is quantized again."""
    q, scale, zero = source.inputs
    if source.output.type.dtype is not DType.F32:
        return None
    if _per_tensor(site, source) == goal:
        return _bounded(site, q, bounds, goal)
    if q.type.dtype is not DType.I32 or site.uses(source.output) > 1 or not known(site, scale):
        return None
    if number(site, zero) != 0:
        return None
    return _requantized(site, q, numbers(site, scale), node, bounds, goal)


def _before(joined: Node, node: Node, site: Site) -> Value | None:
    """What a concat joins is quantized before it, to one scale, where all of it are integers."""
    if site.uses(joined.output) > 1:
        return None
    if any(made_by(site, value, Dequantize) is None for value in joined.inputs):
        return None
    small = [
        site.emit(node.op, value, *node.inputs[1:], hint=value.hint) for value in joined.inputs
    ]
    return site.emit(joined.op, *small)


def _mean(mean: Node, node: Node, bounds: list[Op], goal: Affine, site: Site) -> Answer:
    """A mean of bytes that is quantized again is a sum of integers."""
    source = made_by(site, mean.inputs[0], Dequantize)
    known_as = _per_tensor(site, source)
    if source is None or known_as is None or known_as.dtype not in BYTES:
        return None
    if site.uses(mean.output) > 1:
        return Miss("others read the mean as floats")
    sums = mean_sums(mean, source.inputs[0], known_as, site)
    if isinstance(sums, Miss):
        return sums
    return _requantized(site, sums.value, np.asarray(sums.unit), node, bounds, goal)


def _requantized(
    site: Site, sums: Value, unit: NDArray[Any], node: Node, bounds: list[Op], goal: Affine
) -> Value:
    """Sums, whose units are known, as the integers that a quantize node asks for."""
    multiplier = constant(np.asarray(unit / goal.scale, np.float32))
    factor = site.constant(multiplier, "multiplier")
    small = site.emit(Requantize(goal.dtype), sums, factor, node.inputs[2])
    return _bounded(site, small, bounds, goal)


def _bounded(site: Site, q: Value, bounds: list[Op], goal: Affine) -> Value:
    """Clamps on integers, the innermost first; quantize is monotone, so it may come before them."""
    least, most = limits(goal.dtype)
    for op in reversed(bounds):
        low, high = (op.low, op.high) if isinstance(op, ew.Clamp) else (0.0, None)
        floor = None if low is None else goal.of(low)
        ceiling = None if high is None else goal.of(high)
        floor = None if floor == least else floor
        ceiling = None if ceiling == most else ceiling
        if floor is not None or ceiling is not None:
            q = site.emit(ew.Clamp(floor, ceiling), q)
    return q


def _move(node: Node, site: Site) -> Answer:
    """A movement of dequantized values moves the integers: they all have one scale and zero."""
    if not moves(node.op):
        return None
    makers = [made_by(site, value, Dequantize) for value in node.inputs]
    found = {_per_tensor(site, maker) for maker in makers}
    shared = found.pop()
    if found or shared is None:
        return None
    op = node.op
    if isinstance(op, Pad) and op.mode is PadMode.CONSTANT:
        op = replace(op, value=shared.zero)
    first = makers[0]
    assert first is not None
    moved = site.emit(op, *(maker.inputs[0] for maker in makers if maker is not None))
    return site.emit(first.op, moved, *first.inputs[1:])


_MOVED = (
    Concat, Expand, Flip, MaxPool, Pad, ReduceMax, ReduceMin, Reshape, Resize, Slice, Transpose,
)  # fmt: skip
_RULES: Rules = {
    **dict.fromkeys((Conv, ConvTranspose, Linear), (_layer,)),
    Quantize: (_quantize,),
    **dict.fromkeys(_MOVED, (_move,)),
}
