"""How Winograd's way cuts an output into tiles, and tiles into blocks."""

from __future__ import annotations

from dataclasses import dataclass

from optc.backends.tvm.templates.geometry import Geometry
from optc.backends.tvm.templates.minimal import Minimal, minimal, operations
from optc.backends.tvm.templates.winograd_knobs import WinogradKnobs


@dataclass(frozen=True)
class Tiling:
    """How the output is cut into tiles, and tiles into blocks."""

    shape: Geometry
    knobs: WinogradKnobs

    @property
    def down(self) -> Minimal:
        """The algorithm along columns."""
        return minimal(self.knobs.height)

    @property
    def across(self) -> Minimal:
        """The algorithm along rows."""
        return minimal(self.knobs.width)

    @property
    def points(self) -> int:
        """Products of a tile, for each pair of channels."""
        return self.down.points * self.across.points

    @property
    def extents(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        (above,), (along,) = self.shape.axes
        return above.count, along.count

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles along the axes."""
        height, width = self.extents
        return -(-height // self.knobs.height), -(-width // self.knobs.width)

    @property
    def tiles(self) -> int:
        """All of them, the batch included."""
        return self.shape.batch * self.grid[0] * self.grid[1]

    @property
    def blocks(self) -> int:
        """The last one may be short of tiles."""
        return -(-self.tiles // self.knobs.block)

    @property
    def flops(self) -> int:
        """Multiplications and additions of products and transforms, padding included."""
        inputs, outputs = self.shape.inputs, self.shape.outputs
        down, across = self.down, self.across
        data = down.points * operations(across.data) + across.points * operations(down.data)
        sums = across.points * operations(down.result) + down.outputs * operations(across.result)
        each = 2 * self.points * inputs * outputs + data * inputs + sums * outputs
        return self.tiles * each

    def columns(self) -> list[tuple[int, int, tuple[bool, ...]]]:
        """(first, count, which columns of the input are inside) of tiles along a row."""
        phase = self.shape.axes[1][0]
        found: list[tuple[int, int, tuple[bool, ...]]] = []
        for tile in range(self.grid[1]):
            start = tile * self.knobs.width + phase.offset
            mask = tuple(0 <= start + j < phase.extent for j in range(self.across.points))
            if found and found[-1][2] == mask:
                found[-1] = (found[-1][0], found[-1][1] + 1, mask)
            else:
                found.append((tile, 1, mask))
        return found
