"""What the loops of a direct convolution are made from, and what can be counted of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.templates.apart import Apart
from optc.backends.tvm.templates.conv_knobs import ConvKnobs
from optc.backends.tvm.templates.dot import Dot
from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.image import Image
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.templates.places import Coordinate
from optc.backends.tvm.templates.taps import axis_runs


@dataclass(frozen=True)
class Access:
    """How the loops reach memory, and how `dot` multiplies what they find there.

    `weights` are packed, with a row that sums start at where `dot` has an origin; `group_step` is
    from a group's channels in the image to the next. `finish(batch, place, channel, value)` stores
    a result, inside a vector loop.
    """

    dot: Dot
    image: Image
    group_step: int
    weights: Buffer
    finish: Callable[[Expr, Sequence[Expr], Coordinate, Expr], None]
    epilogue_size: int
    apart: Apart

    @property
    def dtype(self) -> str:
        """What sums are kept in."""
        return tvm_dtype(self.dot.sum)

    def joined(self, channels: int) -> bool:
        """Whether channel c + `channels` of a place is channel c of the next place."""
        image = self.image
        return image.channel == image.group and image.column == channels * image.channel


@dataclass(frozen=True)
class ConvLoops:
    """One convolution as its loops see it."""

    code: Code
    shape: Geometry
    knobs: ConvKnobs
    access: Access
    lanes: int
    cycles: float  # of the whole work: little is not worth waking threads for

    @property
    def width(self) -> int:
        """Channels of a panel."""
        return self.knobs.vectors * self.lanes

    @property
    def first(self) -> int:
        """Rows of weights before the first, for what sums start at."""
        return int(self.access.dot.origin != 0)

    @property
    def padded(self) -> int:
        """Output channels of a group in whole vectors."""
        return -(-self.shape.outputs // self.lanes) * self.lanes

    @property
    def tiles(self) -> int:
        """Tiles along the last axis."""
        return sum(run.repeat for _, run in axis_runs(self.shape.axes[-1], self.knobs.columns))

    @property
    def tiles_per_panel(self) -> int:
        """Tiles that use a panel before the next one is due."""
        return self.shape.batch * math.prod(self.row_counts) * self.tiles

    @property
    def row_counts(self) -> tuple[int, ...]:
        """Items along each axis but the last."""
        axes = self.shape.axes[:-1]
        counts = [max(phase.count for phase in phases) for phases in axes]
        if self.knobs.rows > 1:
            counts[-1] = sum(run.repeat for _, run in axis_runs(axes[-1], self.knobs.rows))
        return tuple(counts)
