"""What a convolution may choose: its register tile, and what neighbouring items share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Order(Enum):
    """What neighbouring items share."""

    WEIGHTS = "weights"  # a panel goes over the whole image before the next one is loaded
    IMAGE = "image"  # all panels are applied to a row before the next one


@dataclass(frozen=True, slots=True)
class ConvKnobs:
    """Register tile: `rows` x `columns` positions by `vectors`; `unroll` channels an iteration.

    With two `sums` for each output channel, of even and of odd input channels, lanes that one sum
    would leave idle are used, and an element's load serves twice as many multiply-adds.
    """

    rows: int
    columns: int
    vectors: int
    unroll: int
    order: Order
    sums: int = 1
