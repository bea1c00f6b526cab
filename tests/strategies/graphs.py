"""Random small graphs: chains and joins of ops whose numbers stay tame, for differential tests.

Weights are inputs and constants are single numbers, so a graph can serve as the body of a Task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Value
from optc.ir.ops import (
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Expand,
    Flip,
    GroupNorm,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Op,
    OpError,
    Pad,
    PadMode,
    ReduceMax,
    ReduceMean,
    ReduceSum,
    Reshape,
    Resize,
    RmsNorm,
    Slice,
    Softmax,
    Take,
    Transpose,
    ew,
)
from optc.ir.types import TensorType
from tests.strategies.shapes import axis_of, broadcastable
from tests.strategies.values import Normal, Uniform, Values, Whole, fill

_MOST = 4096  # elements of a value
# Cubes among them: there, axes that were mistaken for one another do not show in a shape.
_IMAGES = st.sampled_from(((1, 3, 6, 5), (1, 5, 6, 4), (1, 6, 6, 6), (2, 4, 4, 4)))


@dataclass(frozen=True)
class Case:
    """A graph and what its inputs hold."""

    graph: Graph
    values: tuple[Values, ...]
    seed: int

    def inputs(self) -> list[Tensor]:
        """The same tensors each time."""
        generator = torch.Generator().manual_seed(self.seed)
        pairs = zip(self.graph.inputs, self.values, strict=True)
        return [fill(value.type, values, generator) for value, values in pairs]


@dataclass
class _Growing:
    """A graph under construction: `live` holds its float values."""

    draw: DrawFn
    dtype: DType
    build: Builder = field(default_factory=lambda: Builder("random"))
    values: list[Values] = field(default_factory=list)
    live: list[Value] = field(default_factory=list)

    def input(self, shape: Sequence[int], values: Values, dtype: DType | None = None) -> Value:
        """A new graph input."""
        self.values.append(values)
        return self.build.input(TensorType(tuple(shape), dtype or self.dtype), "x")

    def pick(self) -> Value:
        """A value to go on from, the newest more often."""
        if self.draw(st.booleans()):
            return self.live[-1]
        return self.draw(st.sampled_from(self.live))

    def add(self, op: Op, *inputs: Value) -> None:
        """Emit; a value that would be large, or empty, is left out."""
        if all(0 < type.elements <= _MOST for type in op.infer(*(v.type for v in inputs))):
            self.live.append(self.build.emit(op, *inputs))


_UNARY: tuple[Op, ...] = (
    ew.Tanh(), ew.Sigmoid(), ew.Relu(), ew.Gelu(), ew.Gelu(tanh=True), ew.Silu(), ew.Abs(),
    ew.Neg(), ew.Sin(), ew.Cos(), ew.Erf(), ew.HardSwish(), ew.HardSigmoid(),
    ew.Clamp(-2.0, 2.0), ew.Elu(), ew.LeakyRelu(0.1), ew.Softplus(),
)  # fmt: skip
_BINARY: tuple[Op, ...] = (ew.Add(), ew.Sub(), ew.Mul(), ew.Maximum(), ew.Minimum())


def _unary(g: _Growing) -> None:
    g.add(g.draw(st.sampled_from(_UNARY)), g.pick())


def _binary(g: _Growing) -> None:
    a, op = g.pick(), g.draw(st.sampled_from(_BINARY))
    match g.draw(st.integers(0, 3)):
        case 0:
            b = g.build.splat(0.75, TensorType(g.draw(broadcastable(a.shape)), g.dtype))
        case 1:
            b = g.input(g.draw(broadcastable(a.shape)), Normal(1.0))
        case _:
            b = g.pick()
    pair = (a, b) if g.draw(st.booleans()) else (b, a)
    g.add(op, *pair)


def _divide(g: _Growing) -> None:
    a = g.pick()
    g.add(ew.Div(), a, g.input(g.draw(broadcastable(a.shape)), Uniform(0.5, 2.0)))


def _where(g: _Growing) -> None:
    # Compared are inputs, which are the same bits on both sides.
    a, b = g.pick(), g.pick()
    left, right = (g.input(g.draw(broadcastable(a.shape)), Normal(1.0)) for _ in range(2))
    condition = g.build.emit(g.draw(st.sampled_from((ew.Less(), ew.GreaterEqual()))), left, right)
    g.add(ew.Where(), condition, a, b)


def _reduce(g: _Growing) -> None:
    x, kind = g.pick(), g.draw(st.sampled_from((ReduceSum, ReduceMean, ReduceMax)))
    axes = tuple(axis for axis in range(x.type.rank) if g.draw(st.booleans()))
    g.add(kind(axes, g.draw(st.booleans())), x)


def _normalise(g: _Growing) -> None:
    x = g.pick()
    if x.type.rank == 0:
        return
    axes = g.draw(st.integers(1, x.type.rank))
    affine = g.draw(st.integers(0, 1))
    weight = [g.input(x.shape[-axes:], Normal(1.0)) for _ in range(affine)]
    match g.draw(st.integers(0, 2)):
        case 0:
            g.add(Softmax(axis_of(g.draw, x.shape)), x)
        case 1:
            g.add(LayerNorm(axes, 0.1), x, *weight)
        case _:
            g.add(RmsNorm(axes, 0.1), x, *weight)


def _rearrange(g: _Growing) -> None:
    x = g.pick()
    shape, rank = x.shape, x.type.rank
    match g.draw(st.integers(0, 6)):
        case 0:
            g.add(Transpose(tuple(g.draw(st.permutations(range(rank))))), x)
        case 1:
            g.add(Reshape((x.type.elements,)), x)
        case 2 if rank:
            g.add(
                Reshape((*shape[:-1], shape[-1] // 2, 2) if shape[-1] % 2 == 0 else (1, *shape)), x
            )
        case 3 if rank:
            starts = tuple(min(1, dim - 1) for dim in shape)
            g.add(Slice(starts, shape, (g.draw(st.integers(1, 2)),) * rank), x)
        case 4 if rank:
            g.add(Flip((axis_of(g.draw, shape),)), x)
        case 5 if rank:
            mode = g.draw(st.sampled_from((PadMode.CONSTANT, PadMode.REPLICATE)))
            g.add(Pad((1,) * rank, (0,) * (rank - 1) + (2,), mode), x)
        case _:
            g.add(Expand((2, *shape)), x)


def _join(g: _Growing) -> None:
    x = g.pick()
    if x.type.rank:
        axis = axis_of(g.draw, x.shape)
        other = g.input((*x.shape[:axis], 3, *x.shape[axis + 1 :]), Normal(1.0))
        g.add(Concat(axis), x, other, x)


def _take(g: _Growing) -> None:
    x = g.pick()
    if x.type.rank:
        axis = axis_of(g.draw, x.shape)
        g.add(Take(axis), x, g.input((3,), Whole(0, x.shape[axis] - 1), DType.I64))


def _multiply(g: _Growing) -> None:
    x = g.pick()
    if not x.type.rank:
        return
    inner, outer = x.shape[-1], g.draw(st.sampled_from((1, 5, 16, 33)))
    if x.type.rank > 1 and g.draw(st.booleans()):
        if g.draw(st.booleans()):
            g.add(MatMul(), x, g.input((inner, outer), Uniform(-0.5, 0.5)))
        else:
            g.add(MatMul(transpose_b=True), g.input((outer, inner), Uniform(-0.5, 0.5)), x)
        return
    bias = [g.input((outer,), Normal(1.0))] if g.draw(st.booleans()) else []
    g.add(Linear(), x, g.input((outer, inner), Uniform(-0.5, 0.5)), *bias)


def _image(g: _Growing) -> None:
    x, last = g.pick(), g.draw(st.booleans())
    if x.type.rank != 4:
        x = g.input(g.draw(_IMAGES), Normal(1.0))
    channels = x.shape[-1] if last else x.shape[1]
    pads = ((1, 0), (1, 1))
    match g.draw(st.integers(0, 5)):
        case 0:
            weight = g.input((6, channels, 3, 2), Uniform(-0.5, 0.5))
            g.add(Conv((1, 2), pads, (1, 1), 1, last), x, weight)
        case 1:
            weight = g.input((channels, 1, 2, 3), Uniform(-0.5, 0.5))
            g.add(Conv((1, 1), pads, (1, 1), channels, last), x, weight)
        case 2:
            g.add(MaxPool((2, 2), (2, 1), pads, (1, 1), last), x)
        case 3:
            g.add(AvgPool((2, 3), (1, 2), pads, (1, 1), last, pads), x)
        case 4:
            sides = x.shape[1:3] if last else x.shape[2:]
            g.add(Resize((2 * sides[0], 2 * sides[1]), (0.5, 0.5), channels_last=last), x)
        case _:
            _channel_norm(g, x, channels, last)


def _channel_norm(g: _Growing, x: Value, channels: int, last: bool) -> None:
    if g.draw(st.booleans()):
        g.add(GroupNorm(1 if channels % 2 else 2, 0.1, last), x)
        return
    spread = g.input((channels,), Uniform(0.5, 2.0))
    rest = [g.input((channels,), Normal(1.0)) for _ in range(3)]
    g.add(BatchNorm(1e-3, last), x, rest[0], spread, rest[1], rest[2])


_STEPS: tuple[Callable[[_Growing], None], ...] = (
    _unary, _unary, _binary, _binary, _divide, _where, _reduce, _normalise, _rearrange, _rearrange,
    _join, _take, _multiply, _image,
)  # fmt: skip


# What a layout goes through, or ends at.
_OF_IMAGES = (_image, _image, _image, _unary, _binary, _reduce, _normalise, _rearrange, _join)


@st.composite
def graphs(draw: DrawFn, most: int = 8) -> Case:
    """Graphs of one float dtype with up to `most` steps, one to three outputs and no dead nodes."""
    g = _Growing(draw, draw(st.sampled_from((DType.F32, DType.F32, DType.F16, DType.BF16))))
    rank = draw(st.integers(0, 4))
    shape = tuple(draw(st.sampled_from((1, 2, 3, 5, 8, 17))) for _ in range(rank))
    g.live.append(g.input(shape if rank < 4 else draw(_IMAGES), Normal(1.0)))
    return _grown(g, most, _STEPS)


@st.composite
def image_graphs(draw: DrawFn, most: int = 8) -> Case:
    """The same in f64, begun with an image and mostly of ops on images."""
    g = _Growing(draw, DType.F64)
    g.live.append(g.input(draw(_IMAGES), Normal(1.0)))
    return _grown(g, most, _OF_IMAGES)


def _grown(g: _Growing, most: int, steps: Sequence[Callable[[_Growing], None]]) -> Case:
    draw = g.draw
    for _ in range(draw(st.integers(1, most))):
        step = draw(st.sampled_from(steps))
        try:
            step(g)
        except OpError:
            continue  # the op does not take what was picked
    g.add(ew.Neg(), g.live[-1])  # no output is an input
    computed = [value for value in g.live if g.build.producer(value)]
    extra = draw(st.lists(st.sampled_from(computed), max_size=2, unique_by=id))
    outputs = list(dict.fromkeys((computed[-1], *extra)))
    return Case(
        _without_dead(g.build.build(outputs)), tuple(g.values), draw(st.integers(0, 1 << 16))
    )


def _without_dead(graph: Graph) -> Graph:
    needed, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    constants = {value: item for value, item in graph.constants.items() if value in needed}
    return Graph(graph.name, graph.inputs, tuple(reversed(kept)), graph.outputs, constants)
