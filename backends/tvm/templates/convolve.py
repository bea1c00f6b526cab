"""The loops of a direct convolution: a register tile that slides over the output.

An item of work is one tile: `rows` x `columns` positions times a panel of output channels, whose
sums stay in registers over the whole window and all input channels. A weight vector is used once
per position, an input element once per vector of channels. The weights of a panel,
`[taps][channels][width]`, stream from the second-level cache.

Sums `apart` (see `dot`) are twice as many, of even and of odd input channels; they are joined when
the window is done. Of 24 output channels they fill three vectors, where others would need four.

Nothing is padded and no image-to-column matrix is made: see `taps` for how borders are treated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr

from optc.backends.tvm.templates.conv_knobs import Order
from optc.backends.tvm.templates.conv_loops import ConvLoops
from optc.backends.tvm.templates.conv_tile import ConvTile, Panel, Rows
from optc.backends.tvm.templates.loops import Code, as_index
from optc.backends.tvm.templates.nest import digits_of
from optc.backends.tvm.templates.taps import axis_runs


def convolve(loops: ConvLoops) -> None:
    """Emit the whole loop nest."""
    code, shape = loops.code, loops.shape
    panels = -(-shape.outputs // loops.width)
    image, weights = [shape.batch, *loops.row_counts], [shape.groups, panels]
    by_weights = loops.knobs.order is Order.WEIGHTS
    outer = [*weights, *image] if by_weights else [*image, *weights]
    # One tile per item: in a loop over tiles, biases would be loaded before it and kept in
    # registers that the sums need.
    with code.shared("item", math.prod(outer) * loops.tiles, loops.cycles) as item:
        number: Expr = as_index(0)
        if by_weights:
            number = code.bind(tirx.floormod(item, loops.tiles_per_panel), "number")
        *digits, column = digits_of(code, item, [*outer, loops.tiles])
        if by_weights:
            (group, panel), (batch, *rows) = digits[:2], digits[2:]
        else:
            (batch, *rows), (group, panel) = digits[:-2], digits[-2:]
        full, left = divmod(shape.outputs, loops.width)
        widths = (full, loops.width), (panels - full, left)
        for columns, here in code.cases(panel < full, *widths):
            with here:
                found = _panel(loops, batch, group, panel, columns, number)
                _Walk(found, column).over_rows(rows)


def _panel(
    loops: ConvLoops, batch: Expr, group: Expr, panel: Expr, columns: int, number: Expr
) -> Panel:
    shape = loops.shape
    rows = shape.taps * shape.inputs + loops.first
    start = (group * loops.padded + panel * loops.width) * rows
    weights = loops.code.bind(start, "start")
    output = loops.code.bind(group * shape.outputs + panel * loops.width, "output")
    return Panel(loops, batch, group, columns, output, weights, number)


@dataclass(frozen=True)
class _Walk:
    """From an item's digits to its tile: which phases, and where in its row and column it is."""

    panel: Panel
    column: Expr

    @property
    def code(self) -> Code:
        return self.panel.loops.code

    def over_rows(self, rows: Sequence[Expr]) -> None:
        """Every combination of phases of the axes but the last."""
        self._outer(list(rows), [])

    def _outer(self, rows: list[Expr], chosen: list[Rows]) -> None:
        axis, axes = len(chosen), self.panel.loops.shape.axes
        if axis == len(axes) - 1:
            self._columns(chosen)
            return
        phases, row, height = axes[axis], rows[axis], self.panel.loops.knobs.rows
        if axis == len(axes) - 2 and height > 1:
            at = 0
            cases = axis_runs(phases, height)
            for phase, run in cases:
                with self._between(row, at, at + run.repeat, sum(r.repeat for _, r in cases)):
                    start = self.code.bind((row - at) * run.size + run.first, "top")
                    self._outer(rows, [*chosen, Rows(phase, start, run)])
                at += run.repeat
            return
        most = max(phase.count for phase in phases)
        for phase in phases:
            with self._between(row, 0, phase.count, most):
                self._outer(rows, [*chosen, Rows(phase, row, None)])

    @contextmanager
    def _between(self, value: Expr, low: int, high: int, extent: int) -> Iterator[None]:
        conditions = [value >= low] if low else []
        conditions += [value < high] if high < extent else []
        if not conditions:
            yield
            return
        with self.code.when(tirx.all(*conditions) if len(conditions) > 1 else conditions[0]):
            yield

    def _columns(self, rows: list[Rows]) -> None:
        """The tile, by where in its row it is."""
        loops = self.panel.loops
        bounds = [self._bounds(row) for row in rows]
        at = 0
        for phase, run in axis_runs(loops.shape.axes[-1], loops.knobs.columns):
            with self._between(self.column, at, at + run.repeat, loops.tiles):
                left = self.code.bind((self.column - at) * run.size + run.first, "left")
                ConvTile(self.panel, rows, bounds, phase, run, left).emit()
            at += run.repeat

    def _bounds(self, row: Rows) -> tuple[Expr, Expr]:
        low, high = row.phase.bounds(row.start)
        return self.code.bind(low, "low"), self.code.bind(high, "high")
