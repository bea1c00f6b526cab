"""Weight-only quantization: weights and tables lie small in memory and are widened by kernels.

Round to nearest, symmetric, a scale per output channel or per group of inputs; each scale is the
one with the least squared error of its block, which matters at four bits (cf. Banner et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from optc.ir.builder import Builder, live_nodes
from optc.ir.constant import Absent, constant, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import ConvTranspose, Dequantize, Take
from optc.ir.types import TensorType
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.precision.affine import quantized
from optc.passes.precision.blocks import best_scale
from optc.passes.precision.layers import LAYERS, Names, weight_shape
from optc.passes.precision.quantization import whole
from optc.passes.rewrite import remap


class Bits(Enum):
    """Width of a stored weight."""

    EIGHT = "8"
    FOUR = "4"

    @property
    def dtype(self) -> DType:
        """The IR's element type."""
        return DType.I8 if self is Bits.EIGHT else DType.I4


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store the weights of layers, and the tables of embeddings, as integers of `bits` bits.

    `group` inputs share a scale; 0 is a scale per output channel or row. None is 32 at 4 bits and 0
    at 8. A weight whose inputs are no multiple of the group has a scale per channel. `keep_float`
    names layers, or modules of the model, that stay as they are.
    """

    name = "quantize-weights"
    effect = Effect.LOSSY
    bits: Bits = Bits.EIGHT
    group: int | None = None
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.group is not None and self.group < 0:
            raise ValueError(f"group is a number of inputs, not {self.group}")

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with dequantize behind its weights."""
        ctx.lineage.begin(module)
        return module.with_graphs(tuple(_Weights(g, self, ctx).result() for g in module.graphs))

    @property
    def dtype(self) -> DType:
        """What weights are stored in."""
        return self.bits.dtype

    @property
    def inputs(self) -> int:
        """How many inputs share a scale; 0: all."""
        return (32 if self.bits is Bits.FOUR else 0) if self.group is None else self.group


class _Weights:
    def __init__(self, graph: Graph, options: QuantizeWeights, ctx: PassContext) -> None:
        self.graph, self.options, self.ctx = graph, options, ctx
        self.names = Names.of(graph)
        self.builder = Builder(graph.name)
        self.builder.inputs, self.builder.constants = list(graph.inputs), dict(graph.constants)
        self.parts: dict[tuple[Value, tuple[int, ...]], tuple[Value, Value, Value]] = {}
        self.stands_for: dict[Value, Value] = {}

    def result(self) -> Graph:
        for node in self.graph.nodes:
            self.builder.loc = node.loc
            self.add(remap(node, lambda value: self.stands_for.get(value, value)))
        if not self.parts:
            return self.graph
        self.ctx.lineage.follow(self.stands_for, whole)
        outputs = [self.stands_for.get(value, value) for value in self.graph.outputs]
        self.builder.nodes = list(live_nodes(self.builder.nodes, outputs))
        return self.builder.build(outputs)

    def add(self, node: Node) -> None:
        place = 0 if isinstance(node.op, Take) else 1
        if not self.is_chosen(node, place):
            self.builder.append(node)
            return
        weight = node.inputs[place]
        parts = self.stored(weight, self.scale_shape(node, weight))
        hint = node.output.hint
        if isinstance(node.op, Take):
            q, scale = (
                self.builder.emit(node.op, part, node.inputs[1], hint=hint) for part in parts[:2]
            )
            result = self.builder.emit(Dequantize(), q, scale, parts[2], hint=hint)
        else:
            wide = self.builder.emit(Dequantize(), *parts, hint=weight.hint)
            result = self.builder.emit(node.op, node.inputs[0], wide, *node.inputs[2:], hint=hint)
        self.stands_for[node.output] = result

    def is_chosen(self, node: Node, place: int) -> bool:
        table = isinstance(node.op, Take) and node.op.axis == 0
        if not table and not isinstance(node.op, LAYERS):
            return False
        weight = node.inputs[place]
        item = self.graph.constants.get(weight)
        if item is None or isinstance(item.source, Absent) or item.splat is not None:
            return False
        if weight.type.dtype is not DType.F32 or (table and weight.type.rank != 2):
            return False
        return self.names.matches(node, self.options.keep_float) is None

    def scale_shape(self, node: Node, weight: Value) -> tuple[int, ...]:
        """A scale per channel or row, and per group of inputs where these divide into groups."""
        if isinstance(node.op, ConvTranspose):
            return weight_shape(node)
        inputs, group = weight.shape[1], self.options.inputs
        groups = inputs // group if group and inputs % group == 0 else 1
        return (weight.shape[0], groups, *[1] * (weight.type.rank - 2))

    def stored(self, weight: Value, shape: tuple[int, ...]) -> tuple[Value, Value, Value]:
        """Integers, scale and zero of a weight; those who share it share them."""
        if (weight, shape) not in self.parts:
            array = to_floats(self.graph.constants[weight]).astype(np.float64)
            scale = best_scale(array, shape, self.options.dtype)
            values = quantized(array, scale, self.options.dtype)
            zero = TensorType((), self.options.dtype)
            self.parts[weight, shape] = (
                self.builder.constant(values, weight.hint),
                self.builder.constant(constant(scale), f"{weight.hint}_scale"),
                self.builder.splat(0, zero, f"{weight.hint}_zero"),
            )
        return self.parts[weight, shape]
