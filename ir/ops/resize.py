"""Ops that read an image between its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from optc.ir.ops.base import Op, Types, require
from optc.ir.ops.contraction import with_spatial
from optc.ir.types import TensorType


class Interpolation(Enum):
    """How a value between pixels is made."""

    NEAREST = "nearest"
    LINEAR = "linear"
    CUBIC = "cubic"


class Border(Enum):
    """What grid_sample reads outside the image."""

    ZEROS = "zeros"
    BORDER = "border"
    REFLECTION = "reflection"


@dataclass(frozen=True, slots=True)
class Resize(Op):
    """Resample the spatial axes to `size`.

    `scales` is input extent over output extent per axis as torch computes coordinates with it
    (1 / scale_factor when the user gave one). Nearest floors, as torch's `nearest`; cubic uses
    a = -0.75. `align_corners` maps corner pixels onto each other.
    """

    size: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    mode: Interpolation = Interpolation.NEAREST
    align_corners: bool = False
    channels_last: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        x = inputs[0]
        fits = x.rank == len(self.size) + 2 and len(self.scales) == len(self.size)
        require(fits, f"resize to {self.size} does not fit {x}")
        channels = x.shape[-1] if self.channels_last else x.shape[1]
        return (with_spatial(x, channels, list(self.size), self.channels_last),)


@dataclass(frozen=True, slots=True)
class GridSample(Op):
    """Inputs x [N, C, H, W] and grid [N, h, w, 2] of (x, y) in -1..1 -> [N, C, h, w]."""

    arity: ClassVar[tuple[int, int]] = (2, 2)
    mode: Interpolation = Interpolation.LINEAR
    border: Border = Border.ZEROS
    align_corners: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        x, grid = inputs
        fits = x.rank == grid.rank == 4 and grid.shape[-1] == 2 and grid.shape[0] == x.shape[0]
        require(fits, f"grid_sample: {grid} does not fit {x}")
        return (x.with_shape((*x.shape[:2], *grid.shape[1:3])),)
