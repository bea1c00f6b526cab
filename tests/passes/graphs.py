"""Random graphs for properties of passes: every op draw is valid, and constants are common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st

from optc.ir.builder import Builder
from optc.ir.constant import from_floats
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.module import Module, module_of
from optc.ir.ops import (
    BatchNorm,
    Concat,
    Conv,
    Expand,
    Flip,
    Linear,
    MatMul,
    Pad,
    ReduceMax,
    ReduceMean,
    ReduceSum,
    Reshape,
    Slice,
    Softmax,
    Transpose,
    ew,
)
from optc.ir.types import TensorType

Draw = Callable[..., object]
NUMBERS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, -0.25)
UNARY = (ew.Neg, ew.Abs, ew.Relu, ew.Sign)
STEPS = (ew.Floor, ew.Ceil, ew.Round, ew.Trunc)
BINARY = (ew.Add, ew.Sub, ew.Mul, ew.Maximum, ew.Minimum)


class Maker:
    """Grows a graph by one random node at a time."""

    def __init__(self, draw: Draw, dtype: DType, exact: bool) -> None:
        self.draw = draw
        self.dtype = dtype
        self.exact = exact
        self.builder = Builder("main")
        shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple))
        self.values = [self.builder.input(TensorType(shape, dtype)) for _ in range(2)]

    def pick(self, items: Sequence[object]) -> object:
        return self.draw(st.sampled_from(items))

    def value(self) -> Value:
        # Mostly recent values, so that chains grow.
        back = self.draw(st.integers(1, min(len(self.values), 4)))
        return self.values[-back]

    def number(self, shape: Sequence[int]) -> Value:
        """A constant of this shape: one number everywhere, or several."""
        if self.draw(st.booleans()):
            return self.builder.splat(self.pick(NUMBERS), TensorType(tuple(shape), self.dtype))
        seed = self.draw(st.integers(0, 3))
        array = np.random.default_rng(seed).choice(NUMBERS[2:], tuple(shape))
        return self.builder.constant(from_floats(array, self.dtype))

    def emit(self, op: object, *inputs: Value) -> None:
        self.values.append(self.builder.emit(op, *inputs))

    def grow(self) -> None:
        kinds = [self.unary, self.binary, self.with_constant, self.move, self.move, self.transpose]
        kinds += [self.cast, self.steps] if self.exact else [self.contract, self.normalise]
        self.pick(kinds)(self.value())

    def unary(self, x: Value) -> None:
        low = self.pick((None, -1.0, 0.0, 0.5))
        self.emit(self.pick([*(op() for op in UNARY), ew.Clamp(low, self.pick((None, 1.0)))]), x)

    def steps(self, x: Value) -> None:
        self.emit(self.pick(STEPS)(), x)

    def cast(self, x: Value) -> None:
        wide = self.builder.emit(ew.Cast(self.pick((DType.F64, DType.F16, DType.I32))), x)
        self.emit(ew.Cast(self.dtype), wide)

    def binary(self, x: Value) -> None:
        fitting = [value for value in self.values if value.shape == x.shape]
        self.emit(self.pick(BINARY)(), x, self.pick(fitting))

    def with_constant(self, x: Value) -> None:
        rank = self.draw(st.integers(0, x.type.rank))
        shape = [self.pick((1, dim)) for dim in x.shape[x.type.rank - rank :]]
        c = self.number(shape)
        op = (
            self.pick((*BINARY, ew.Div, ew.Pow)) if not self.exact else self.pick((*BINARY, ew.Div))
        )
        if isinstance(op(), ew.Div | ew.Pow):
            powers = (2.0, 4.0, -0.5) if self.exact else (2.0, 3.0)
            c = self.builder.splat(self.pick(powers), TensorType(tuple(shape), self.dtype))
            self.emit(op(), x, c)
            return
        self.emit(op(), *self.pick(((x, c), (c, x))))

    def transpose(self, x: Value) -> None:
        self.emit(Transpose(tuple(self.draw(st.permutations(range(x.type.rank))))), x)

    def move(self, x: Value) -> None:
        self.pick((self.reshape, self.slice, self.concat, self.pad, self.flip, self.fold))(x)

    def reshape(self, x: Value) -> None:
        dims = list(x.shape)
        if self.draw(st.booleans()) or len(dims) < 2:
            dims.insert(self.draw(st.integers(0, len(dims))), 1)
        else:
            place = self.draw(st.integers(0, len(dims) - 2))
            dims[place : place + 2] = [dims[place] * dims[place + 1]]
        if len(dims) <= 4:
            self.emit(Reshape(tuple(dims)), x)

    def slice(self, x: Value) -> None:
        starts = [self.draw(st.integers(0, dim - 1)) for dim in x.shape]
        stops = [self.draw(st.integers(a + 1, dim)) for a, dim in zip(starts, x.shape, strict=True)]
        steps = [self.pick((1, 1, 2)) for _ in x.shape]
        self.emit(Slice(tuple(starts), tuple(stops), tuple(steps)), x)

    def concat(self, x: Value) -> None:
        if not x.type.rank or x.type.elements > 200:
            return
        axis = self.draw(st.integers(0, x.type.rank - 1))
        fitting = [value for value in self.values if value.shape == x.shape]
        self.emit(Concat(axis), *(self.pick(fitting) for _ in range(self.draw(st.integers(1, 3)))))

    def pad(self, x: Value) -> None:
        if x.type.elements <= 200:
            low, high = ([self.pick((0, 0, 1)) for _ in x.shape] for _ in range(2))
            self.emit(Pad(tuple(low), tuple(high), value=self.pick((0.0, 1.0))), x)

    def flip(self, x: Value) -> None:
        axes = tuple(axis for axis in range(x.type.rank) if self.draw(st.booleans()))
        self.emit(Flip(axes), x)

    def fold(self, x: Value) -> None:
        if not x.type.rank:
            return
        axis = self.draw(st.integers(0, x.type.rank - 1))
        kind = ReduceMax if self.exact else self.pick((ReduceMax, ReduceSum, ReduceMean))
        small = self.builder.emit(kind((axis,), True), x)
        self.emit(Expand(x.shape), small)

    def contract(self, x: Value) -> None:
        if x.type.rank < 2:
            return
        if self.draw(st.booleans()):
            weight = self.number((self.draw(st.integers(1, 4)), x.shape[-1]))
            self.emit(Linear(), x, weight, *([self.number(weight.shape[:1])] * self.pick((0, 1))))
        elif x.type.rank == 4 and self.draw(st.booleans()):
            op = Conv(padding=((1, 0), (1, 1)))
            self.emit(op, x, self.number((2, x.shape[1], 2, 1)))
        elif self.draw(st.booleans()):
            self.emit(MatMul(), x, self.number((x.shape[-1], 2)))
        else:
            turned = (*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2)
            self.emit(MatMul(), x, self.builder.emit(Transpose(turned), x))

    def normalise(self, x: Value) -> None:
        if x.type.rank < 2:
            return
        if self.draw(st.booleans()):
            self.emit(Softmax(x.type.rank - 1), x)
            return
        last = self.draw(st.booleans())
        channels = x.shape[-1] if last else x.shape[1]
        kind = TensorType((channels,), self.dtype)
        ones = [self.builder.splat(number, kind) for number in (0.5, 2.0, 1.5, 0.25)]
        self.emit(BatchNorm(channels_last=last), x, *ones)


@st.composite
def modules(draw: Draw, *, exact: bool, nodes: int = 14) -> Module:
    """A module of up to `nodes` random nodes.

    `exact` ones hold only ops whose result does not depend on how it is computed, in f32; the
    others hold contractions and reductions, no steps, and are in f64.
    """
    maker = Maker(draw, DType.F32 if exact else DType.F64, exact)
    for _ in range(draw(st.integers(1, nodes))):
        maker.grow()
    count = draw(st.integers(1, 2))
    return module_of(maker.builder.build(maker.values[-count:]))
