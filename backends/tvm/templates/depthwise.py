"""Depthwise convolutions with constant weights: every channel has a window of its own.

The weights are packed as `[vectors of channels][taps][lanes]`: a vector of channels meets a vector
of weights, and what a tile reads of them lies in one stretch, which comes to the caches unasked.
See `slide` for the loops.
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
from optc.backends.tvm.templates.dot import BYTES, single
from optc.backends.tvm.templates.fused import AnchorPlan, fused
from optc.backends.tvm.templates.geometry import Geometry, geometry
from optc.backends.tvm.templates.image import ImageReader, channels_at_end
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.templates.places import Coordinate, Lane, plain
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.slide import Slide
from optc.backends.tvm.templates.slide_cost import candidates
from optc.backends.tvm.templates.slide_knobs import SlideKnobs
from optc.backends.tvm.templates.slide_tile import Fold
from optc.ir.dtype import DType
from optc.ir.ops import Conv, ConvTranspose
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class DepthwisePack:
    """[C, 1, *K] weights as [C / lanes][taps][lanes], filled up with zeros.

    With `halves`, bytes as the lower 16 bits of i32.
    """

    dtype: DType
    lanes: int
    halves: bool = False

    def type(self, natural: TensorType) -> TensorType:
        """One axis."""
        vectors = -(-natural.shape[0] // self.lanes)
        return TensorType((vectors * math.prod(natural.shape[1:]) * self.lanes,), self.dtype)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The vectors, flat."""
        channels = array.shape[0]
        vectors = -(-channels // self.lanes)
        matrix = array.reshape(channels, -1).astype(self.dtype.storage, copy=False)
        filled = np.zeros((vectors * self.lanes, matrix.shape[1]), matrix.dtype)
        filled[:channels] = matrix & 0xFFFF if self.halves else matrix
        split = filled.reshape(vectors, self.lanes, -1).transpose(0, 2, 1)
        return np.ascontiguousarray(split).ravel()


@dataclass(frozen=True)
class Depthwise:
    """Template of convolutions with as many groups as channels, in and out."""

    name: str = "depthwise"
    version: int = 4

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes a task around one depthwise `conv` or `conv_transpose` with constant weights."""
        anchors = [n for n in problem.body.nodes if isinstance(n.op, Conv | ConvTranspose)]
        if len(anchors) != 1:
            return Miss("the task has no single convolution")
        (anchor,) = anchors
        weight = anchor.inputs[1]
        constant = {problem.body.inputs[i] for i in problem.constants}
        if weight not in constant or problem.body.users[weight] != (anchor,):
            return Miss("the weights are not a constant of the convolution's own")
        if weight.shape[1] != 1 or weight.shape[0] != anchor.op.groups:  # type: ignore[attr-defined]
            return Miss("the convolution mixes channels")
        if not anchor.op.channels_last:  # type: ignore[attr-defined]
            return Miss("channels come first")
        kind = anchor.inputs[0].type.dtype
        if not (kind.is_float or kind in BYTES) or not anchor.output.type.elements:
            return Miss(f"convolutions of {anchor.inputs[0].type} go elsewhere")
        task = fused(problem, anchor)
        return (
            task if isinstance(task, Miss) else DepthwisePlan(task, f"{self.name}/{self.version}")
        )


@dataclass(frozen=True)
class DepthwisePlan(AnchorPlan):
    """A depthwise convolution and what is fused around it."""

    @cached_property
    def shape(self) -> Geometry:
        """The loop bounds."""
        return geometry(self.node)

    def candidates(self) -> Sequence[Knobs]:
        """Tiles that fit the registers, by rising cost."""
        kind = single(self.target, self.node.inputs[0].type.dtype).sum
        return candidates(self.shape, self.target, self.target.lanes(kind), one_by_one=True)

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over stretches of rows."""
        if type(knobs) is not SlideKnobs:
            raise ValueError(f"depthwise does not know {knobs!r}")
        return _Emission(self, knobs).run(symbol)


class _Emission:
    def __init__(self, plan: DepthwisePlan, knobs: SlideKnobs) -> None:
        self.plan, self.knobs, self.node = plan, knobs, plan.node
        kind = self.node.inputs[0].type.dtype
        self.dot = single(plan.target, kind)
        self.sum = self.dot.sum
        place = plan.task.problem.body.inputs.index(self.node.inputs[1])
        stored = self.dot.right if kind in BYTES else kind
        self.lanes = plan.target.lanes(self.sum)
        pack = DepthwisePack(stored, self.lanes, halves=bool(self.dot.intrinsic))
        self.io = plan.task.emitter({place: pack})
        self.weights = self.io.packed(self.node.inputs[1])
        self.code = Code()

    def run(self, symbol: str) -> Emitted:
        plan, x = self.plan, self.node.inputs[0]
        lanes = self.lanes
        stored = tvm_dtype(x.type.dtype)
        order = channels_at_end(x.type.rank, channels_last=True)
        reader = ImageReader(self.code, self.io, x, stored, order, lanes, plan.target.cores > 1)
        zero = tirx.const(0, tvm_dtype(self.sum))
        fold = Fold(tvm_dtype(self.sum), zero, self._step, self._finish, one_by_one=True)
        image = reader.image(few=1)
        Slide(self.code, plan.shape, self.knobs, image, fold, plan.target, lanes).run()
        return self.io.finish(self.code, symbol)

    def _step(self, total: Expr, element: Expr, tap: Expr, channel: Lane) -> Expr:
        base, lanes = channel.base, self.lanes
        vector = tirx.floordiv(base, lanes) * (self.plan.shape.taps * lanes)
        # Fewer lanes are a part of the last vector.
        lane = channel.lane + (0 if channel.lanes == lanes else tirx.floormod(base, lanes))
        return self.dot.add(total, element, self.weights[vector + (tap * lanes + lane)])

    def _finish(self, batch: Expr, place: Sequence[Expr], channel: Coordinate, value: Expr) -> None:
        if len(self.node.inputs) > 2:
            value = value + self.wide(self.io.read(None, self.node.inputs[2], plain([channel])))
        self.io.store(self.code, self.plan.shape.index(batch, tuple(place), channel), value)

    def wide(self, value: Expr) -> Expr:
        """The value in the type that sums are kept in."""
        dtype = tvm_dtype(self.sum)
        return value if value.ty.dtype == dtype else tirx.Cast(dtype, value)
