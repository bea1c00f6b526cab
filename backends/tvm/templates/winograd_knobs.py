"""What a Winograd convolution may choose."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Share(Enum):
    """What threads divide among them."""

    TILES = "tiles"  # each transforms blocks of tiles and multiplies them by all weights
    CHANNELS = "channels"  # all transform a block, then each multiplies it by its own weights


@dataclass(frozen=True, slots=True)
class WinogradKnobs:
    """F(`height` x `width`, 3x3); `strips` of `rows` tiles make a block.

    A register tile is `rows` tiles by `vectors` of output channels; `unroll` channels an iteration.
    With two sums for each result, of even and of odd channels, so many vectors of them are `apart`
    from the others of the tile, and `unroll` counts pairs: see `products_apart`.
    """

    height: int
    width: int
    rows: int
    strips: int
    vectors: int
    unroll: int
    share: Share
    apart: int = 0

    @property
    def block(self) -> int:
        """Tiles that are transformed, multiplied and transformed back together."""
        return self.rows * self.strips
