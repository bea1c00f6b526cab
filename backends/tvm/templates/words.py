"""How a convolution reads words: neighbouring channels that one instruction multiplies.

An image of bytes is read where it lies when its channels fill whole words. What must be copied: an
image whose elements change (other signs, halves of i32), a prologue, a border that is not zero (by
pairs, or with flipped signs, any border), and channels that fill no words. Of those, the taps of a
row are read as one run of channels, which neighbours in memory are; words beyond the last meet
weights of zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import width_of
from optc.backends.tvm.templates.dot import Dot
from optc.backends.tvm.templates.fused import FusedEmitter
from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.image import Image, dense, pointer, steps_of
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import each_vector, for_each_point, space_of
from optc.backends.tvm.templates.taps import Phase
from optc.ir.graph import Graph, Value
from optc.ir.ops import Pad
from optc.ir.ops.movement import PadMode
from optc.ir.targets.target import Target

_SLACK = 64  # elements behind an image that the last word may reach


@dataclass(frozen=True)
class WordShape:
    """A convolution whose channels are counted in words.

    `low` is the border stored before the image along each axis, `space` the stored extents; `taps`
    neighbours of the last axis count as channels. `channels` are elements of a group.
    """

    shape: Geometry
    low: tuple[int, ...]
    space: tuple[int, ...]
    channels: int
    taps: int

    @property
    def framed(self) -> bool:
        """Whether the image is stored with a border."""
        return any(self.low) or self.space != self.shape.space


def in_words(shape: Geometry, dot: Dot) -> WordShape:
    """The loop bounds in words of `dot`."""
    last = shape.axes[-1]
    runs = len(last) == 1 and last[0].gap == last[0].stride == 1 and shape.groups == 1
    taps = last[0].taps if runs and shape.inputs % dot.block else 1
    axes, low, space = shape.axes, (0,) * len(shape.space), shape.space
    outside = any(not phase.never_outside for axis in axes for phase in axis)
    if outside and (dot.flipped or dot.pairs or taps > 1):
        frames = [_framed(axis, extent) for axis, extent in zip(axes, shape.space, strict=True)]
        axes, low, space = (tuple(part) for part in zip(*frames, strict=True))
    kernel = shape.kernel
    if taps > 1:
        kernel, axes = (*kernel[:-1], 1), (*axes[:-1], (replace(axes[-1][0], taps=1),))
    inputs = dot.words(shape.inputs * taps)
    words = replace(shape, inputs=inputs, kernel=kernel, axes=axes)
    return WordShape(words, low, space, shape.inputs, taps)


def _framed(axis: tuple[Phase, ...], extent: int) -> tuple[tuple[Phase, ...], int, int]:
    """Phases that read no padding, the border before the image, and the extent with borders."""
    low = max(0, *(-phase.offset for phase in axis))
    ends = [p.offset + (p.count - 1) * p.move + (p.taps - 1) * p.gap + 1 for p in axis if p.taps]
    whole = low + max(extent, *ends)
    return tuple(replace(p, offset=p.offset + low, extent=whole) for p in axis), low, whole


@dataclass(frozen=True)
class WordReader:
    """Makes the image of `value`: `order` puts its axes as batch, places, channel."""

    code: Code
    io: FusedEmitter
    value: Value
    dot: Dot
    words: WordShape
    order: tuple[int, ...]
    target: Target

    def image(self) -> Image:
        """In place when it can be."""
        body, dot = self.io.task.problem.body, self.dot
        steps = steps_of(body, self.value)
        plain = self.value.type.dtype is dot.left and not dot.flipped and not self.words.framed
        if steps is None or not plain or self.words.channels * self.words.taps % dot.block:
            return self._copied()
        order = tuple(steps.steps[axis] for axis in self.order)
        if order[-1] != 1:
            return self._copied()
        whole = self.io.inputs[body.inputs.index(steps.source)]
        flat = pointer(self.code, whole, [as_index(0)] * len(whole.shape), bits=True)
        return Image(flat, steps.start, (*order[:-1], dot.group), read_only=True, group=dot.group)

    def _copied(self) -> Image:
        code, words = self.code, self.words
        source, border, fill = _unpadded(self.io.task.problem.body, self.value, self.order)
        if words.framed and any(border):
            source, border, fill = self.value, (0,) * len(border), 0
        batch, *_, channels = (self.value.shape[axis] for axis in self.order)
        extents = [batch, *words.space, channels]
        size = math.prod(extents) + _SLACK
        buffer = code.scratch("image", (size,), self.dot.left_stored, "global")
        low = [a + b for a, b in zip(words.low, border, strict=True)]
        outside = self.dot.constant(float(fill) if self.dot.left.is_float else int(fill))
        copy = _Copy(self, buffer, source, low, extents, outside)
        cycles = math.prod(extents) * 8 / self.target.vector_bits * 2
        with code.shared("row", math.prod(extents[:-2]), cycles) as row:
            copy.row(row)
        steps = (*dense(extents)[:-1], self.dot.group)
        return Image(buffer, 0, steps, read_only=False, group=self.dot.group)


@dataclass(frozen=True)
class _Copy:
    reader: WordReader
    buffer: Buffer
    source: Value
    low: Sequence[int]
    extents: Sequence[int]
    outside: Expr

    def row(self, flat: Expr) -> None:
        """One stored row: a border all along, or the image's row between borders."""
        code, order = self.reader.code, self.reader.order
        start = code.bind(flat * (self.extents[-2] * self.extents[-1]), "start")
        digits: list[Expr] = []
        for extent in reversed(self.extents[1:-2]):
            digits.insert(0, code.bind(tirx.floormod(flat, extent), "at"))
            flat = code.bind(tirx.floordiv(flat, extent), "rest")
        inside: list[Expr] = []
        places: list[Expr] = []
        for axis, (digit, low) in enumerate(zip(digits, self.low, strict=False)):
            extent = self.source.shape[order[axis + 1]]
            if low:
                inside.append(digit >= low)
            if low + extent < self.extents[axis + 1]:
                inside.append(digit < low + extent)
            places.append(digit - low)
        if not inside:
            self._image(start, [flat, *places])
            return
        condition = inside[0] if len(inside) == 1 else tirx.all(*inside)
        with code.when(condition):
            self._image(start, [flat, *places])
        with code.otherwise(condition):
            self._fill(start, self.extents[-2])

    def _image(self, start: Expr, place: list[Expr]) -> None:
        reader, channels = self.reader, self.extents[-1]
        columns, low = self.source.shape[reader.order[-2]], self.low[-1]
        self._fill(start, low)
        first = reader.code.bind(start + low * channels, "first")

        def element(code: Code, index: Sequence[Expr]) -> Expr:
            here = dict(zip(reader.order, [*place, *index], strict=True))
            value = reader.io.read(code, self.source, [here[axis] for axis in sorted(here)])
            return reader.dot.stored(value)

        def copy(index: list[Expr]) -> None:
            to = first + index[0] * channels + index[1]
            reader.code.store(self.buffer, (to,), element(reader.code, index))

        space = space_of([columns, channels], element)
        width = max(space.width, width_of(self.buffer.dtype))
        for_each_point(reader.code, space, replace(reader.target, cores=1), width, copy)
        self._fill(first + columns * channels, self.extents[-2] - low - columns)

    def _fill(self, start: Expr, columns: int) -> None:
        code = self.reader.code
        lanes = self.reader.target.vector_bits // 8 // width_of(self.buffer.dtype)

        def fill(i: Expr) -> None:
            code.store(self.buffer, (start + i,), self.outside)

        if columns:
            each_vector(code, columns * self.extents[-1], lanes, fill)


def _unpadded(
    body: Graph, value: Value, order: Sequence[int]
) -> tuple[Value, tuple[int, ...], float]:
    """What a value holds inside a border of one number: the border before it, and the number."""
    node = body.producer.get(value)
    inner = order[1:-1]
    if node is not None and isinstance(node.op, Pad) and node.op.mode is PadMode.CONSTANT:
        beside = {axis for axis in range(len(order)) if node.op.low[axis] or node.op.high[axis]}
        if beside <= set(inner):
            return node.inputs[0], tuple(node.op.low[axis] for axis in inner), node.op.value
    return value, (0,) * len(inner), 0
