"""How windowed templates read their input: where it lies, or from a copy made first.

Moves in front of a window (the transpose of the model's input, a slice, a reshape) only change the
steps between elements, so the loops follow them in place. A prologue that computes, an element type
that has to be widened, and channels far apart from each other are worth one pass over the input,
which is little beside what the window reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype, width_of
from optc.backends.tvm.templates.fused import FusedEmitter
from optc.backends.tvm.templates.loops import Code, as_index
from optc.ir.graph import Graph, Value
from optc.ir.ops import Reshape, Slice, Transpose

# Fewer channels than this are read with any stride: what they share of a cache line is used soon.
FEW_CHANNELS = 8


@dataclass(frozen=True, slots=True)
class Steps:
    """An element of a value lies `start` + the sum of index * step behind `source`'s first one."""

    source: Value
    start: int
    steps: tuple[int, ...]


def dense(shape: Sequence[int]) -> tuple[int, ...]:
    """Steps of a row-major tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def reshaped(
    old: Sequence[int], steps: Sequence[int], new: Sequence[int]
) -> tuple[int, ...] | None:
    """Steps of a tensor under another shape, where no element has to move for it."""
    # Axes between which elements lie evenly are one, from the innermost on.
    runs: list[tuple[int, int]] = []
    for extent, step in zip(reversed(old), reversed(steps), strict=True):
        if runs and step == runs[-1][0] * runs[-1][1]:
            runs[-1] = (runs[-1][0] * extent, runs[-1][1])
        elif extent != 1:
            runs.append((extent, step))
    found: list[int] = []
    left, step = runs.pop(0) if runs else (1, 1)
    for extent in reversed(new):
        if left == 1 and runs:
            left, step = runs.pop(0)
        if left % extent and extent != 1:
            return None
        found.insert(0, step)
        left, step = left // extent, step * extent
    return tuple(found)


def steps_of(body: Graph, value: Value) -> Steps | None:
    """Where a value's elements lie in an input of the body, if moves are all there is between."""
    producer = body.producer.get(value)
    if producer is None:
        return Steps(value, 0, dense(value.shape)) if value in body.inputs else None
    behind = steps_of(body, producer.inputs[0])
    if behind is None:
        return None
    match producer.op:
        case Transpose(perm):
            return Steps(behind.source, behind.start, tuple(behind.steps[axis] for axis in perm))
        case Slice(starts, _, by):
            moved = sum(a * b for a, b in zip(starts, behind.steps, strict=True))
            steps = tuple(a * b for a, b in zip(by, behind.steps, strict=True))
            return Steps(behind.source, behind.start + moved, steps)
        case Reshape():
            found = reshaped(producer.inputs[0].shape, behind.steps, value.shape)
            return None if found is None else Steps(behind.source, behind.start, found)
    return None


@dataclass(frozen=True)
class Image:
    """The input of a window, as one axis: `steps` are those of batch, places and channel."""

    buffer: Buffer
    start: int
    steps: tuple[int, ...]
    read_only: bool
    group: int = 1  # elements of a word, which spans are read in

    @property
    def channel(self) -> int:
        """Step from a channel to the next."""
        return self.steps[-1]

    @property
    def column(self) -> int:
        """Step from a place to the next along the last axis."""
        return self.steps[-2]

    def at(self, index: Sequence[Expr | int]) -> Expr:
        """Where the element at (batch, place..., channel) is."""
        place: Expr = as_index(self.start)
        for item, step in zip(index, self.steps, strict=True):
            place = place + item * step
        return place

    def span(self, code: Code, index: Sequence[Expr | int], beyond: Expr | int = 0) -> Span:
        """The words from the one that lies `beyond` that element on."""
        start = tirx.Cast("int64", self.at(index) + beyond)
        return Span(self.buffer, code.bind(start, "start"), self.group)

    def window(self, code: Code, index: Sequence[Expr | int]) -> Callable[[Expr], Expr]:
        """The elements from that one on, for vectors."""
        start = self.at(index)
        if self.read_only:
            rest = pointer(code, self.buffer, [start])
            return lambda at: rest[at]
        base = code.bind(start, "start")
        return lambda at: self.buffer[base + at]


@dataclass(frozen=True, slots=True)
class Span:
    """The elements of a flat buffer from `start`, an i64, on. Not for vectors: it would gather.

    With 64-bit sums LLVM sees that a tile's elements are at constant distances and uses one
    pointer; of 32-bit sums it adds up a part in every iteration, for each element of its own.
    """

    buffer: Buffer
    start: Expr
    group: int = 1

    def __getitem__(self, index: Expr) -> Expr:
        place = self.start + tirx.Cast("int64", index)
        return (
            self.buffer[place] if self.group == 1 else neighbours(self.buffer, [place], self.group)
        )

    def vector(self, index: Expr, lanes: int) -> Expr:
        """Neighbours from an element on."""
        first = self.start + tirx.Cast("int64", index)
        return tirx.BufferLoad(self.buffer, [tirx.Ramp(first, tirx.const(1, "int64"), lanes)])


def neighbours(buffer: Buffer, index: Sequence[Expr], group: int, words: int = 1) -> Expr:
    """Words of `group` elements, from an element on, as an integer or a vector of them."""
    *lead, first = index
    ramp = tirx.Ramp(first, tirx.const(1, str(first.ty)), group * words)
    word = f"int{8 * group * width_of(str(buffer.dtype))}"
    kind = word if words == 1 else f"{word}x{words}"
    return tirx.reinterpret(kind, tirx.BufferLoad(buffer, [*lead, ramp]))


def pointer(code: Code, buffer: Buffer, start: Sequence[Expr], *, bits: bool = False) -> Buffer:
    """The elements of a parameter from one on, along a single axis, by a pointer of its own.

    To LLVM it is different memory: nothing may be written to either. `bits`: halves as integers.
    """
    elements = math.prod(int(extent) for extent in buffer.shape)
    dtype = "uint16" if bits and buffer.dtype == "bfloat16" else buffer.dtype
    rest = tirx.decl_buffer((elements,), dtype, "rest")
    # Named, because TVM's elimination of common subexpressions does not see into declarations.
    named = [code.bind(index, "start") for index in start]
    code.add(tirx.DeclBuffer(rest, data=tirx.address_of(tirx.BufferLoad(buffer, named))))
    return rest


@dataclass(frozen=True)
class ImageReader:
    """Makes the image of `value` in `dtype`, the type that is computed in.

    `order` says which axes of the value are the image's, the last one being that of vectors.
    """

    code: Code
    io: FusedEmitter
    value: Value
    dtype: str
    order: tuple[int, ...]
    lanes: int
    parallel: bool

    def image(self, few: int = FEW_CHANNELS) -> Image:
        """In place when it can be; the last axis may lie apart if it has at most `few` elements."""
        value = self.value
        steps = steps_of(self.io.task.problem.body, value)
        if steps is None or tvm_dtype(value.type.dtype) != self.dtype:
            return self.copied()
        order = tuple(steps.steps[axis] for axis in self.order)
        if order[-1] != 1 and value.shape[self.order[-1]] > few:
            return self.copied()
        inputs = self.io.task.problem.body.inputs
        whole = self.io.inputs[inputs.index(steps.source)]
        flat = pointer(self.code, whole, [as_index(0)] * len(whole.shape))
        return Image(flat, steps.start, order, read_only=True)

    def copied(self, multiple: int = 1) -> Image:
        """A copy made by a loop of its own, whose last axis is padded to a multiple."""
        code = self.code
        extents = [self.value.shape[axis] for axis in self.order]
        padded = [*extents[:-1], -(-extents[-1] // multiple) * multiple]
        buffer = code.scratch("image", (math.prod(padded),), self.dtype, scope="global")
        image = Image(buffer, 0, dense(padded), read_only=False)
        start = code.parallel if self.parallel else code.loop
        with start("row", math.prod(extents[:-2])) as flat:
            index: list[Expr] = []
            for extent in reversed(extents[1:-2]):
                index.insert(0, code.bind(tirx.floormod(flat, extent), "i"))
                flat = code.bind(tirx.floordiv(flat, extent), "rest")
            with code.loop("column", extents[-2]) as column:
                self._place(image, [flat, *index, column], extents[-1])
        return image

    def _place(self, image: Image, index: list[Expr], channels: int) -> None:
        def copy(channel: Expr) -> None:
            here = dict(zip(self.order, [*index, channel], strict=True))
            value = self.io.read(self.code, self.value, [here[axis] for axis in sorted(here)])
            if value.ty.dtype != self.dtype:
                value = tirx.Cast(self.dtype, value)
            self.code.store(image.buffer, (image.at([*index, channel]),), value)

        whole, rest = divmod(channels, self.lanes)
        if whole:
            with self.code.loop("c", whole) as c, self.code.vector("lane", self.lanes) as lane:
                copy(c * self.lanes + lane)
        with self.code.unrolled("c", rest) as c:
            copy(whole * self.lanes + c)


def channels_at_end(rank: int, channels_last: bool) -> tuple[int, ...]:
    """The order of axes in which channels are the last."""
    return tuple(range(rank)) if channels_last else (0, *range(2, rank), 1)
