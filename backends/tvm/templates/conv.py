"""Convolutions with constant weights, of every kind but depthwise: see `convolve` for the loops.

One description (`geometry`) covers one to three axes, groups, and transposed convolutions; batch,
strides, dilation and padding are part of it. The input is read where it lies when its channels are
neighbours, or when it has few of them (the first layer, in either layout): see `image`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.conv_cost import tile_cost
from optc.backends.tvm.templates.conv_knobs import ConvKnobs, Order
from optc.backends.tvm.templates.convolve import Access, Convolve
from optc.backends.tvm.templates.fused import Fused, FusedEmitter, fused
from optc.backends.tvm.templates.geometry import Geometry, geometry
from optc.backends.tvm.templates.image import ImageReader, channels_at_end
from optc.backends.tvm.templates.loops import FORK_CYCLES, Code
from optc.backends.tvm.templates.places import Coordinate, plain
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.taps import pieces
from optc.backends.tvm.templates.tile import register_rows
from optc.ir.dtype import DType
from optc.ir.graph import Node
from optc.ir.ops import Conv, ConvTranspose
from optc.ir.targets.target import Target
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class ConvPack:
    """[O, I/groups, *K] weights (`transposed`: [I, O/groups, *K]) as panels [*K][I/groups][width].

    Panels of a group lie one after another, its last one only as wide as its channels need in whole
    vectors of `lanes`; what no channel fills is zero.
    """

    groups: int
    width: int
    lanes: int
    transposed: bool

    def type(self, natural: TensorType) -> TensorType:
        """One axis."""
        inputs, outputs, taps = self._extents(natural.shape)
        padded = -(-outputs // self.lanes) * self.lanes
        return natural.with_shape((self.groups * padded * taps * inputs,))

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The panels, flat."""
        inputs, outputs, taps = self._extents(array.shape)
        if self.transposed:
            split = array.reshape(self.groups, inputs, outputs, taps).transpose(0, 3, 1, 2)
        else:
            split = array.reshape(self.groups, outputs, inputs, taps).transpose(0, 3, 2, 1)
        padded = -(-outputs // self.lanes) * self.lanes
        filled = np.zeros((self.groups, taps, inputs, padded), array.dtype)
        filled[..., :outputs] = split
        cuts = range(self.width, padded, self.width)
        return np.concatenate(
            [panel.ravel() for group in filled for panel in np.split(group, cuts, axis=-1)]
        )

    def _extents(self, shape: Sequence[int]) -> tuple[int, int, int]:
        taps = math.prod(shape[2:])
        if self.transposed:
            return shape[0] // self.groups, shape[1], taps
        return shape[1], shape[0] // self.groups, taps


@dataclass(frozen=True)
class Convolution:
    """Template of convolutions with constant weights."""

    name: str = "conv"
    version: int = 1

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes a task around one `conv` or `conv_transpose` whose weights are constant."""
        anchors = [n for n in problem.body.nodes if isinstance(n.op, Conv | ConvTranspose)]
        if len(anchors) != 1:
            return Miss("the task has no single convolution")
        (anchor,) = anchors
        weight = anchor.inputs[1]
        constant = {problem.body.inputs[i] for i in problem.constants}
        if weight not in constant or problem.body.users[weight] != (anchor,):
            return Miss("the weights are not a constant of the convolution's own")
        if not anchor.output.type.dtype.is_float:
            return Miss(f"convolutions of {anchor.output.type.dtype} go elsewhere")
        if not anchor.output.type.elements or not anchor.inputs[0].type.elements:
            return Miss("the convolution is empty")
        task = fused(problem, anchor)
        return task if isinstance(task, Miss) else ConvPlan(task, f"{self.name}/{self.version}")


@dataclass(frozen=True)
class ConvPlan:
    """A convolution and what is fused around it."""

    task: Fused
    template: str

    @property
    def node(self) -> Node:
        """The convolution."""
        return self.task.anchor

    @property
    def target(self) -> Target:
        """The machine."""
        return self.task.problem.target

    @cached_property
    def shape(self) -> Geometry:
        """The loop bounds."""
        return geometry(self.node)

    @property
    def sum_dtype(self) -> DType:
        """What sums are kept in."""
        return DType.F64 if self.node.output.type.dtype is DType.F64 else DType.F32

    @property
    def lanes(self) -> int:
        """Sums in a vector."""
        return self.target.lanes(self.sum_dtype)

    def candidates(self) -> Sequence[Knobs]:
        """Tiles by rising cost."""
        vectors = -(-self.shape.outputs // self.lanes)
        found = [tile for count in range(1, min(vectors, 8) + 1) for tile in self._tiles(count)]
        return sorted(
            found, key=lambda knobs: tile_cost(self.shape, knobs, self.target, self.lanes)
        )

    def _tiles(self, vectors: int) -> list[ConvKnobs]:
        limit = register_rows(self.target, vectors)
        if vectors == 1:  # so many broadcasts for one vector of weights that LLVM wants spares
            limit -= 2
        widest = max(phase.count for phase in self.shape.axes[-1])
        found: list[ConvKnobs] = []
        for columns in {max(pieces(widest, size)) for size in range(max(1, limit // 2), limit + 1)}:
            heights = {1}
            if len(self.shape.axes) > 1 and columns == widest:
                tallest = max(phase.count for phase in self.shape.axes[-2])
                heights.add(max(pieces(tallest, max(1, limit // columns))))
            for rows in heights:
                unroll = max(1, min(8, 32 // (rows * columns * vectors)))
                found += [ConvKnobs(rows, columns, vectors, unroll, order) for order in Order]
        return sorted(found, key=repr)

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over tiles, after a copy of the input where that is needed."""
        if type(knobs) is not ConvKnobs:
            raise ValueError(f"conv does not know {knobs!r}")
        return _Emission(self, knobs).run(symbol)


class _Emission:
    def __init__(self, plan: ConvPlan, knobs: ConvKnobs) -> None:
        self.plan, self.knobs, self.node = plan, knobs, plan.node
        self.shape = plan.shape
        self.dtype = tvm_dtype(plan.sum_dtype)
        transposed = isinstance(self.node.op, ConvTranspose)
        pack = ConvPack(self.shape.groups, knobs.vectors * plan.lanes, plan.lanes, transposed)
        place = plan.task.problem.body.inputs.index(self.node.inputs[1])
        self.io: FusedEmitter = plan.task.emitter({place: pack})
        self.packed = self.io.packed(self.node.inputs[1])
        self.code = Code()

    def run(self, symbol: str) -> Emitted:
        cycles = tile_cost(self.shape, self.knobs, self.plan.target, self.plan.lanes) / 2
        parallel = cycles > FORK_CYCLES
        reader = ImageReader(
            self.code,
            self.io,
            self.node.inputs[0],
            self.dtype,
            channels_at_end(self.node.inputs[0].type.rank, self.shape.channels_last),
            self.plan.lanes,
            parallel,
        )
        access = Access(
            self.dtype,
            reader.image(),
            weights=self.packed,
            finish=self._finish,
            epilogue_size=self.plan.task.epilogue_size,
        )
        Convolve(self.code, self.shape, self.knobs, access, self.plan.lanes, cycles).run()
        return may_alias(self.io.finish(self.code, symbol))

    def _finish(self, batch: Expr, place: Sequence[Expr], channel: Coordinate, value: Expr) -> None:
        if len(self.node.inputs) > 2:
            (at,) = plain([channel])
            value = value + self.wide(self.io.read(None, self.node.inputs[2], [at]))
        self.io.store(self.code, self.shape.index(batch, tuple(place), channel), value)

    def wide(self, value: Expr) -> Expr:
        """The value in the type that sums are kept in."""
        return value if value.ty.dtype == self.dtype else tirx.Cast(self.dtype, value)


def may_alias(emitted: Emitted) -> Emitted:
    """The same without the promise that buffers do not overlap.

    LLVM would load biases and scales before the loop over tiles and keep them in registers that the
    sums need. The loops over taps store nothing, so there is nothing else to lose.
    """
    return replace(emitted, function=emitted.function.with_attr("tirx.noalias", False))
