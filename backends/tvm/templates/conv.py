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
from optc.backends.tvm.templates.apart import SUMS, Apart, overwrites
from optc.backends.tvm.templates.conv_cost import tile_cost
from optc.backends.tvm.templates.conv_knobs import ConvKnobs, Order
from optc.backends.tvm.templates.conv_loops import Access, ConvLoops
from optc.backends.tvm.templates.convolve import convolve
from optc.backends.tvm.templates.dot import BYTES, Dot, Words, dot_of, elementwise
from optc.backends.tvm.templates.fused import AnchorPlan, FusedEmitter, fused
from optc.backends.tvm.templates.geometry import Geometry, geometry
from optc.backends.tvm.templates.image import (
    FEW_CHANNELS,
    Image,
    ImageReader,
    channels_at_end,
    steps_of,
)
from optc.backends.tvm.templates.loops import FORK_CYCLES, Code
from optc.backends.tvm.templates.places import Coordinate, plain
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.taps import pieces
from optc.backends.tvm.templates.tile import broadcasts_lanes, register_rows
from optc.backends.tvm.templates.words import WordReader, WordShape, in_words
from optc.ir.dtype import DType
from optc.ir.ops import Conv, ConvTranspose
from optc.ir.types import TensorType

_MANY_REGISTERS = 32


@dataclass(frozen=True, slots=True)
class ConvPack:
    """[O, I/groups, *K] weights (`transposed`: [I, O/groups, *K]) as panels [*K][I/groups][width].

    Panels of a group lie one after another, its last one only as wide as its channels need in whole
    vectors of `lanes`; what no channel fills is zero. Channels are counted in words, in which
    `joined` taps of the last axis count as channels.
    """

    groups: int
    width: int
    lanes: int
    transposed: bool
    words: Words
    joined: int = 1

    def type(self, natural: TensorType) -> TensorType:
        """One axis."""
        inputs, outputs, taps = self._extents(natural.shape)
        padded = -(-outputs // self.lanes) * self.lanes
        words = self.words.rows(inputs * self.joined) - self.words.rows(0)
        rows = taps // self.joined * words + self.words.rows(0)
        return TensorType((self.groups * padded * rows,), self.words.word)

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
        runs = filled.reshape(self.groups, taps // self.joined, self.joined * inputs, padded)
        start = self.words.start(filled.reshape(self.groups, taps * inputs, padded))
        beside = self.words.columns
        words = self.words.pack(runs).reshape(self.groups, -1, padded * beside)
        cuts = range(self.width * beside, padded * beside, self.width * beside)
        return np.concatenate(
            [
                panel.ravel()
                for group in np.concatenate([start, words], axis=1)
                for panel in np.split(group, cuts, axis=-1)
            ]
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
    version: int = 3

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
        kind = anchor.inputs[0].type.dtype
        if not kind.is_float and kind not in BYTES:
            return Miss(f"convolutions of {kind} go elsewhere")
        if not anchor.output.type.elements or not anchor.inputs[0].type.elements:
            return Miss("the convolution is empty")
        task = fused(problem, anchor)
        return task if isinstance(task, Miss) else ConvPlan(task, f"{self.name}/{self.version}")


@dataclass(frozen=True)
class ConvPlan(AnchorPlan):
    """A convolution and what is fused around it."""

    @cached_property
    def dot(self) -> Dot:
        """How the target multiplies and adds."""
        kinds = [value.type.dtype for value in self.node.inputs[:2]]
        # The phases of a transposed convolution sum over different taps.
        dot = dot_of(self.target, *kinds, whole=isinstance(self.node.op, Conv))
        if kinds[0].is_float and geometry(self.node).inputs % dot.group:
            return elementwise(*kinds)  # what a word holds beyond the last channel may be no number
        return dot

    @cached_property
    def words(self) -> WordShape:
        """The loop bounds, and how the image is stored for them."""
        return in_words(geometry(self.node), self.dot)

    @property
    def shape(self) -> Geometry:
        """The loop bounds in words."""
        return self.words.shape

    @cached_property
    def apart(self) -> tuple[Dot, WordShape] | None:
        """The same for sums that lie apart, of an image whose words are read where they lie."""
        x, kinds = self.node.inputs[0], {value.type.dtype for value in self.node.inputs[:2]}
        steps = steps_of(self.task.problem.body, x)
        channels = channels_at_end(x.type.rank, self.shape.channels_last)[-1]
        if kinds != {DType.F32} or steps is None or steps.steps[channels] != 1:
            return None
        by_lanes = broadcasts_lanes(self.target) and not overwrites(self.target)
        if self.shape.inputs % SUMS or by_lanes:
            return None
        dot = replace(self.dot, group=SUMS, apart=True)
        return dot, in_words(geometry(self.node), dot)

    def ways(self, knobs: ConvKnobs) -> tuple[Dot, WordShape]:
        """How these settings multiply and add, and the loop bounds."""
        return self.apart if knobs.sums > 1 and self.apart else (self.dot, self.words)

    @property
    def lanes(self) -> int:
        """Sums in a vector."""
        return self.target.lanes(self.dot.sum)

    def cost(self, knobs: ConvKnobs) -> float:
        """Estimated cost, in slots of multiply-add issue."""
        dot, words = self.ways(knobs)
        return tile_cost(words.shape, knobs, self.target, self.lanes // dot.sums, dot)

    def candidates(self) -> Sequence[Knobs]:
        """Tiles by rising cost."""
        vectors = -(-self.shape.outputs // self.lanes)
        found = [tile for count in range(1, min(vectors, 8) + 1) for tile in self._tiles(count)]
        doubled = -(-self.shape.outputs * SUMS // self.lanes)
        sparing = overwrites(self.target)
        # Where no lane would be idle and loads are few, sums apart only cost more at the end.
        if self.apart and (doubled < SUMS * vectors or vectors == 1 or sparing):
            counts = range(min(1 if sparing else 2, doubled), min(doubled, 8) + 1)
            tiles = [tile for count in counts for tile in self._tiles(count, SUMS)]
            found += [replace(tile, sums=SUMS) for tile in tiles]
        return sorted(found, key=self.cost)

    def _tiles(self, vectors: int, sums: int = 1) -> list[ConvKnobs]:
        if sums > 1 and overwrites(self.target):
            # A word is multiplied where it was loaded, but copied for all vectors except the last.
            free = self.target.vector_registers - vectors - (1 if vectors == 1 else 3)
            return self._of_height(vectors, free // vectors)
        limit = register_rows(self.target, vectors, self.dot)
        # So many broadcasts for one vector of weights, or so few steps that LLVM writes them all
        # out, that it wants spares.
        if vectors == 1 or self.shape.inputs < FEW_CHANNELS:
            limit = max(1, (limit * vectors - 2) // vectors)
        return self._of_height(vectors, min(limit, self._sharing(vectors)))

    def _sharing(self, vectors: int) -> int:
        """The most positions of a tile whose words are read by neighbours, too, at other taps.

        LLVM sees that and keeps them: with sums and weights they take most registers, or lie in
        memory (first layers of bytes, AVX-512: 160 us with seven positions, 180 with eight).
        """
        target = self.target
        shared = self.words.taps > 1 and self.dot.adds and not broadcasts_lanes(target)
        if not shared or target.vector_registers < _MANY_REGISTERS:
            return target.vector_registers
        return max(1, (target.vector_registers * 3 // 4 - vectors) // (vectors + 1))

    def _of_height(self, vectors: int, limit: int) -> list[ConvKnobs]:
        """Tiles of at most so many positions."""
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
        self.dot, self.words = plan.ways(knobs)
        self.shape, self.lanes = self.words.shape, plan.lanes // self.dot.sums
        self.dtype = tvm_dtype(self.dot.sum)
        transposed = isinstance(self.node.op, ConvTranspose)
        width = knobs.vectors * self.lanes
        pack = ConvPack(
            self.shape.groups, width, self.lanes, transposed, self.dot.packing, self.words.taps
        )
        place = plan.task.problem.body.inputs.index(self.node.inputs[1])
        self.io: FusedEmitter = plan.task.emitter({place: pack})
        self.packed = self.io.packed(self.node.inputs[1])
        self.code = Code()

    def run(self, symbol: str) -> Emitted:
        cycles = self.plan.cost(self.knobs) / 2
        image = self._image(cycles > FORK_CYCLES)
        step = self.words.channels * (image.channel // image.group)
        access = Access(
            self.dot, image, step, self.packed, self._finish, self.plan.task.epilogue_size,
            Apart(negated=overwrites(self.plan.target)),
        )  # fmt: skip
        convolve(ConvLoops(self.code, self.shape, self.knobs, access, self.lanes, cycles))
        return may_alias(self.io.finish(self.code, symbol))

    def _image(self, parallel: bool) -> Image:
        x, plan = self.node.inputs[0], self.plan
        order = channels_at_end(x.type.rank, self.shape.channels_last)
        if self.dot.group > 1:
            return WordReader(
                self.code, self.io, x, self.dot, self.words, order, plan.target
            ).image()
        left = tvm_dtype(self.dot.left)
        return ImageReader(self.code, self.io, x, left, order, plan.lanes, parallel).image()

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
