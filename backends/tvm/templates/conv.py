"""Convolutions with constant weights, of every kind but depthwise: see `convolve` for the loops.

One description (`geometry`) covers one to three axes, groups, and transposed convolutions; batch,
strides, dilation and padding are part of it. The input is read where it lies when its channels are
neighbours, or when it has few of them (the first layer, in either layout); otherwise, and when a
prologue computes, or when it has to be widened, it is first written to scratch memory once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.convolve import Access, ConvKnobs, Convolve, Order
from optc.backends.tvm.templates.fused import Fused, FusedEmitter, fused
from optc.backends.tvm.templates.geometry import Geometry, geometry
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.templates.places import Coordinate
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.taps import pieces
from optc.backends.tvm.templates.tile import register_rows
from optc.ir.dtype import DType
from optc.ir.graph import Node, Value
from optc.ir.ops import Conv, ConvTranspose, Transpose
from optc.ir.types import TensorType
from optc.ir.targets.target import Target

# Fewer channels than this are read with any stride: what they share of a cache line is used soon.
_FEW_CHANNELS = 8
# Less work than this is not worth waking other threads for.
_PARALLEL_FLOPS = 200_000
_ITEMS_PER_CORE = 8


@dataclass(frozen=True, slots=True)
class ConvPack:
    """[O, I/groups, *K] weights ([I, O/groups, *K] if `transposed`) as panels [*K][I/groups][width].

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
        found = [
            tile
            for vectors in range(1, 9)
            for tile in self._tiles(vectors)
            if vectors <= -(-self.shape.outputs // self.lanes)
        ]
        return sorted(found, key=self._cost)

    def _tiles(self, vectors: int) -> list[ConvKnobs]:
        limit = register_rows(self.target, vectors)
        widest = max(phase.count for phase in self.shape.axes[-1])
        columns = max(pieces(widest, limit))
        heights = {1}
        if len(self.shape.axes) > 1 and columns == widest:
            tallest = max(phase.count for phase in self.shape.axes[-2])
            heights.add(max(pieces(tallest, max(1, limit // columns))))
        unroll = max(1, min(8, 112 // (columns * vectors)))
        order = self._order(vectors * self.lanes)
        return [ConvKnobs(rows, columns, vectors, unroll, order) for rows in sorted(heights)]

    def _order(self, width: int) -> Order:
        """The one that loads fewer bytes from beyond the second-level cache."""
        size = self.sum_dtype.bits // 8
        image = self.shape.batch * math.prod(self.shape.space) * self.shape.channels * size
        weights = self.node.inputs[1].type.elements * size
        cache = self.target.cache("l2", 1 << 18) // 2
        if weights <= cache:
            return Order.IMAGE
        panels = -(-self.shape.outputs // width)
        rows = max(1, self.shape.results // max(p.count for p in self.shape.axes[-1]))
        by_weights = weights + (image * panels if image > cache else image)
        return Order.WEIGHTS if by_weights <= image + weights * rows else Order.IMAGE

    def _cost(self, knobs: ConvKnobs) -> float:
        """Cycles per input channel and tap, in units of one multiply-add of a vector."""
        columns = [n for p in self.shape.axes[-1] for n in pieces(p.count, knobs.columns)]
        rows = [1]
        if knobs.rows > 1:
            rows = [n for p in self.shape.axes[-2] for n in pieces(p.count, knobs.rows)]
        vectors = -(-self.shape.outputs // self.lanes)
        # The last panel has fewer vectors, and as many steps.
        widths = [knobs.vectors] * (vectors // knobs.vectors) + [vectors % knobs.vectors]
        total = sum(
            self._step_cost(row * column, width)
            for row in rows
            for column in columns
            for width in widths
            if width
        )
        scale = math.prod(max(p.count for p in a) for a in self.shape.axes[:-1])
        return total * (scale if knobs.rows == 1 else 1)

    def _step_cost(self, positions: int, vectors: int) -> float:
        products = positions * vectors
        loads = positions + vectors
        # Two multiply-adds and two loads start per cycle; a sum is ready for the next after four.
        stream = vectors * 1.5  # a vector of weights from the second-level cache
        return max(products, loads, stream, 8.0) + 0.02 * (products + loads)

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over stretches of rows, after staging the input where that is needed."""
        if not isinstance(knobs, ConvKnobs):
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
        parallel = self.shape.flops > _PARALLEL_FLOPS and self.plan.target.cores > 1
        access = Access(
            self.dtype,
            *self._image(parallel),
            weights=lambda at: self.wide(self.packed[at]),
            finish=self._finish,
            epilogue_size=self.plan.task.epilogue_size,
        )
        nest = Convolve(
            self.code,
            self.shape,
            self.knobs,
            access,
            self.plan.lanes,
            self._chunks() if parallel else 1,
            parallel,
        )
        nest.run()
        return self.io.finish(self.code, symbol)

    def _chunks(self) -> int:
        """Parts of a row, where there are too few rows and panels to share out evenly."""
        shape, knobs = self.shape, self.knobs
        rows = math.prod(max(p.count for p in phases) for phases in shape.axes[:-1])
        panels = shape.groups * -(-shape.outputs // (knobs.vectors * self.plan.lanes))
        items = shape.batch * -(-rows // knobs.rows) * panels
        tiles = sum(-(-phase.count // knobs.columns) for phase in shape.axes[-1])
        wanted = _ITEMS_PER_CORE * self.plan.target.cores
        return max(1, min(tiles, -(-wanted // items)))

    def _image(self, parallel: bool):  # type: ignore[no-untyped-def]
        """How the input is read, and whether places are joined."""
        x, shape = self.node.inputs[0], self.shape
        if not must_stage(self.plan, x):

            def image(batch: Expr, place: Sequence[Expr], channel: Expr) -> Expr:
                return self.io.read(None, x, shape.index(batch, tuple(place), channel))

            joined = shape.channels_last and x in self.plan.task.problem.body.inputs
            return image, joined
        buffer = self._staged(x, parallel)
        return lambda batch, place, channel: buffer[(batch, *place, channel)], True

    def _staged(self, x: Value, parallel: bool):  # type: ignore[no-untyped-def]
        shape, code = self.shape, self.code
        extents = (shape.batch, *shape.space, shape.channels)
        buffer = code.scratch("image", extents, self.dtype, scope="global")
        start = code.parallel if parallel else code.loop
        places = math.prod(extents[:-1])
        with start("place", places) as flat:
            index: list[Expr] = []
            for extent in reversed(extents[:-1]):
                index.insert(0, code.bind(tirx.floormod(flat, extent), "i"))
                flat = code.bind(tirx.floordiv(flat, extent), "rest")
            self._row(buffer, x, index)
        return buffer

    def _row(self, buffer, x: Value, index: list[Expr]) -> None:  # type: ignore[no-untyped-def]
        batch, *place = index
        lanes, channels = self.plan.lanes, self.shape.channels

        def copy(channel: Expr) -> None:
            value = self.io.read(self.code, x, self.shape.index(batch, tuple(place), channel))
            self.code.store(buffer, (*index, channel), self.wide(value))

        whole, rest = divmod(channels, lanes)
        if whole:
            with self.code.loop("c", whole) as c, self.code.vector("lane", lanes) as lane:
                copy(c * lanes + lane)
        if rest:
            with self.code.loop("c", rest) as c:
                copy(whole * lanes + c)

    def _finish(
        self, batch: Expr, place: Sequence[Expr], channel: Coordinate, value: Expr
    ) -> None:
        if len(self.node.inputs) > 2:
            (at,) = plain_channel(channel)
            value = value + self.wide(self.io.read(None, self.node.inputs[2], [at]))
        self.io.store(self.code, self.shape.index(batch, tuple(place), channel), value)

    def wide(self, value: Expr) -> Expr:
        """The value in the type that sums are kept in."""
        return value if value.ty.dtype == self.dtype else tirx.Cast(self.dtype, value)


def plain_channel(channel: Coordinate) -> list[Expr]:
    """The coordinate as an expression."""
    from optc.backends.tvm.templates.places import plain

    return plain([channel])


def must_stage(plan: ConvPlan, x: Value) -> bool:
    """Whether the input is better written out once than read where it lies."""
    if x.type.dtype is not plan.sum_dtype:
        return True
    body, shape = plan.task.problem.body, plan.shape
    channel_axis = x.type.rank - 1 if shape.channels_last else 1
    producer = body.producer.get(x)
    while producer is not None:
        if not isinstance(producer.op, Transpose):
            return True
        channel_axis = producer.op.perm[channel_axis]
        (x,) = producer.inputs
        producer = body.producer.get(x)
    return channel_axis != x.type.rank - 1 and shape.channels > _FEW_CHANNELS
