"""Depthwise convolutions of bytes with several taps a word: `vpdpbusd`, `sdot`, `pmaddwd`.

A word holds the bytes that four input rows have in one column of one channel. The taps of a column
meet it at once, shifted by whole bytes for each output row that reads it, with zeros where a row is
none of its own: a 3x3 window takes three instructions in place of nine, a 5x5 one ten in place of
25. `pmaddwd` takes two rows a word, each byte widened to 16 bits, which is exact: six instructions
and 15. See `word_windows` for the loops, `interleave` for how words are made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from optc.backends.tvm.templates.dot import BYTES, Dot, dot_of
from optc.backends.tvm.templates.fused import AnchorPlan, fused
from optc.backends.tvm.templates.geometry import Geometry, geometry
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.tap_pack import TapKnobs, TapsPack, meetings, span
from optc.backends.tvm.templates.taps import pieces
from optc.backends.tvm.templates.word_windows import WordWindows
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Conv, Pad, PadMode

# Calibrated on Zen 5, in cycles of one vector of 32-bit lanes.
_SUMS = {32: 16, 16: 8}  # registers, of those that there are, that sums may take
_MAKE = 1.1  # a vector of words: a load, three shuffles, a store
_MEET = 0.75  # a product of words, added to a sum
_READ = 0.25  # a vector of words or weights from the first-level cache
_KEPT = 20  # meetings whose weights stay in registers or next to them
_CROWDED = 0.01  # of a product, for each weight beyond them
_FINISH = 4.0  # to requantize a vector
_LOW = 7  # rows of an image
_WIDE = 512  # bits
_WRITTEN_OUT = 128  # taps of a window


@dataclass(frozen=True)
class TapWords:
    """Template of depthwise convolutions of bytes over two axes."""

    name: str = "taps"
    version: int = 2

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes a task around one depthwise `conv` of bytes, its rows not dilated."""
        anchors = [node for node in problem.body.nodes if isinstance(node.op, Conv)]
        if len(anchors) != 1:
            return Miss("the task has no single convolution")
        (anchor,) = anchors
        reason = refusal(problem, anchor)
        if reason is not None:
            return Miss(reason)
        task = fused(problem, anchor)
        if isinstance(task, Miss):
            return task
        plan = TapPlan(task, f"{self.name}/{self.version}")
        return plan if plan.pays else Miss("words of two rows are not worth making")


def refusal(problem: Problem, anchor: Node) -> str | None:
    """Why a convolution goes elsewhere."""
    x, weight, op = anchor.inputs[0], anchor.inputs[1], anchor.op
    assert isinstance(op, Conv)
    constant = {problem.body.inputs[place] for place in problem.constants}
    if x.type.dtype not in BYTES or not anchor.output.type.elements:
        return f"convolutions of {x.type} go elsewhere"
    if weight not in constant or problem.body.users[weight] != (anchor,):
        return "the weights are not a constant of the convolution's own"
    if weight.shape[1] != 1 or weight.shape[0] != op.groups or op.groups != x.shape[-1]:
        return "the convolution mixes channels, or makes several of one"
    if not op.channels_last or len(weight.shape) != 4:
        return "channels come first, or there are not two axes"
    if op.dilation[0] != 1:
        return "its rows are dilated"
    if math.prod(weight.shape[2:]) > _WRITTEN_OUT:
        return f"windows of {math.prod(weight.shape[2:])} taps are loops"
    if dot_of(problem.target, x.type.dtype, DType.I8).group == 1:
        return f"{problem.target.name} adds up no products of neighbours"
    return None


@dataclass(frozen=True)
class TapPlan(AnchorPlan):
    """A depthwise convolution of bytes and what is fused around it."""

    @cached_property
    def shape(self) -> Geometry:
        """The loop bounds, of the image without what pads it."""
        return geometry(_unpadded(self.task.problem.body, self.node)[0])

    @property
    def image(self) -> tuple[Value, int]:
        """What is read where it lies, and the byte that stands around it."""
        node, border = _unpadded(self.task.problem.body, self.node)
        return node.inputs[0], border

    @property
    def pays(self) -> bool:
        """Whether words save more than they take: of four rows always.

        Of two they do where rows of windows share them, and bands are not mostly borders; not where
        vectors are wide (14x14x384 by 512 bits: 5.2 us without, 6.5 with).
        """
        rows = self.shape.axes[0][0]
        shared = rows.taps > max(2, 2 * rows.move - 1) and rows.count > _LOW
        return self.dot.group > 2 or (shared and self.target.vector_bits < _WIDE)

    @cached_property
    def dot(self) -> Dot:
        """The instruction."""
        return dot_of(self.target, self.node.inputs[0].type.dtype, DType.I8)

    def pack(self, knobs: TapKnobs) -> TapsPack:
        """The weights' layout."""
        (rows, _), lanes = self.shape.axes, self.target.lanes(DType.I32)
        return TapsPack(knobs.rows, rows[0].move, lanes, self.dot.origin, self.dot.group)

    def candidates(self) -> Sequence[Knobs]:
        """Tiles that fit the registers, by rising cost."""
        found = set(self._tiles())
        return sorted(found, key=lambda knobs: (self.cycles(knobs), knobs.rows, -knobs.columns))

    def _tiles(self) -> Iterator[TapKnobs]:
        height, width = (axis[0].count for axis in self.shape.axes)
        most = _SUMS[32 if self.target.vector_registers >= 32 else 16]
        for rows in range(1, min(4, height) + 1):
            for columns in range(1, max(1, most // rows) + 1):
                even = max(pieces(width, columns))
                if even * rows * 2 >= most or even == width or columns == most // rows:
                    yield TapKnobs(rows, even)

    def cycles(self, knobs: TapKnobs) -> float:
        """Estimated cycles of a vector of channels of one image."""
        rows, columns = (axis[0] for axis in self.shape.axes)
        bands = -(-rows.count // knobs.rows)
        words = -(-span(knobs.rows, rows.move, rows.taps, 1) // self.dot.group)
        met = len(meetings((rows.taps, columns.taps), knobs.rows, rows.move, self.dot.group))
        product = _MEET * (1 + _CROWDED * max(0, met - _KEPT))
        reach = span(knobs.columns, columns.move, columns.taps, columns.gap)
        read = (words * reach + met) * _READ
        made = words * columns.count * columns.move * _MAKE
        summed = met * columns.count * product + -(-columns.count // knobs.columns) * read
        return bands * (made + summed) + rows.count * columns.count * _FINISH

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One parallel loop over stretches of rows."""
        if type(knobs) is not TapKnobs:
            raise ValueError(f"taps does not know {knobs!r}")
        return WordWindows(self, knobs).run(symbol)


def _unpadded(body: Graph, node: Node) -> tuple[Node, int]:
    """A convolution that pads by itself for one behind a Pad of its own, with the Pad's number."""
    before = body.producer.get(node.inputs[0])
    assert isinstance(node.op, Conv)
    if before is None or not isinstance(before.op, Pad) or any(map(any, node.op.padding)):
        return node, 0
    pad, inner = before.op, slice(1, -1)
    sides = (*pad.low, *pad.high)
    alone = body.users[node.inputs[0]] == (node,) and pad.mode is PadMode.CONSTANT
    if not alone or min(sides) < 0 or any((pad.low[0], pad.low[-1], pad.high[0], pad.high[-1])):
        return node, 0
    padding = tuple(zip(pad.low[inner], pad.high[inner], strict=True))
    inputs = (before.inputs[0], *node.inputs[1:])
    return Node(replace(node.op, padding=padding), inputs, node.outputs, node.loc), int(pad.value)
