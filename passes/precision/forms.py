"""A layer alone in one of its forms: what a clock can be held against.

Integers come in as they lie between layers, floats go out; a convolution has its channels last, as
its kernel wants them. Numbers do not matter to a kernel's time: weights are drawn, not rounded.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np

from optc.ir.builder import Builder
from optc.ir.constant import constant, from_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Conv, ConvTranspose, Dequantize, ew
from optc.ir.ops.quantization import limits
from optc.ir.types import TensorType
from optc.passes.precision.choices import Choice, Layer

SCALE = 0.01


def kind(node: Node, choice: Choice) -> Hashable:
    """What two layers share whose kernels are alike."""
    return node.op, tuple(value.type for value in node.inputs), _kernel(choice)


def form(node: Node, layer: Layer, choice: Choice, activations: DType) -> Graph:
    """One node of a layer as the choice makes it; `activations` are the target's 8-bit ones."""
    builder, op, choice = Builder("form"), node.op, _kernel(choice)
    shape = node.inputs[0].shape
    if isinstance(op, Conv | ConvTranspose) and not op.channels_last:
        op = replace(op, channels_last=True)
        shape = (shape[0], *shape[2:], shape[1])
    x = _activations(builder, shape, choice, activations)
    factors = [_weight(builder, layer, choice)]
    half = choice is Choice.HALF
    for bias in node.inputs[2:]:
        zeros = np.zeros(bias.shape, np.float32)
        factors.append(builder.constant(from_floats(zeros, DType.BF16 if half else DType.F32)))
    y = builder.emit(op, x, *factors, hint="y")
    return builder.build([builder.emit(ew.Cast(DType.F32), y) if half else y])


def _kernel(choice: Choice) -> Choice:
    """Kernels of bytes read whole bytes, also of weights that are stored as half ones."""
    return Choice.INT8 if choice is Choice.INT8_4 else choice


def _activations(
    builder: Builder, shape: tuple[int, ...], choice: Choice, activations: DType
) -> Value:
    if not choice.integers:
        return builder.input(TensorType(shape, choice.activations), "x")
    x = builder.input(TensorType(shape, activations), "x")
    return _floats(builder, x, np.float32(SCALE))


def _weight(builder: Builder, layer: Layer, choice: Choice) -> Value:
    draw, dtype, shape = np.random.default_rng(0), choice.weights, layer.weight.shape
    if dtype.is_float:
        numbers = draw.standard_normal(shape, np.float32)
        return builder.constant(from_floats(numbers, dtype), "w")
    low, high = limits(dtype)
    stored = constant(draw.integers(low, high + 1, shape, np.int8), dtype)
    scales = np.full(layer.scales(choice), SCALE, np.float32)
    return _floats(builder, builder.constant(stored, "w"), scales)


def _floats(builder: Builder, q: Value, scale: np.float32 | np.ndarray) -> Value:
    zero = builder.splat(0, TensorType((), q.type.dtype), "zero")
    return builder.emit(Dequantize(), q, builder.constant(np.asarray(scale), "scale"), zero)
