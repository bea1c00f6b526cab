"""Weights that stay in the file: which bytes come when, and where they lie while they are used.

Each call's weights are a block that is read into a window before the call and given up after it; a
thread reads ahead as far as the window goes (the sliding window of Li et al., "TPI-LLM", 2024).
Tables of which a call picks rows are never read whole: their rows are, once the indices are known
(as "LLM in a flash", Alizadeh et al. 2024, reads rows of sparse layers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PAGE = 4096  # bytes: what the system gives memory in


@dataclass(frozen=True, slots=True)
class Gather:
    """A kernel's operand `table` is read only in the rows that operand `indices` picks.

    There are `count` indices of `index_bytes` each into `rows` rows of `row_bytes` each.
    """

    table: int
    indices: int
    count: int
    index_bytes: int
    rows: int
    row_bytes: int

    @property
    def resident(self) -> int:
        """The most bytes of memory its rows take: whole pages."""
        pages = -(-self.row_bytes // PAGE) + 1
        return min(self.rows * self.row_bytes + 2 * PAGE, self.count * pages * PAGE)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the weights, from `source` on, and where in the window they go."""

    source: int
    at: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Block:
    """What call number `call` of a segment needs in the window: `nbytes` bytes from `at` on."""

    call: int
    at: int
    nbytes: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """A gather of call number `call`: its table is bytes from `source` on, seen at `at`."""

    call: int
    gather: Gather
    source: int
    at: int


@dataclass(frozen=True, slots=True)
class Stream:
    """How a program's weights come: `pinned` bytes stay, blocks pass through the window.

    `tables` are address space, of which at most `table_rows` bytes are memory at a time. Blocks and
    rows are by segment, in the order of its calls.
    """

    window: int
    pinned: int
    tables: int = 0
    table_rows: int = 0
    blocks: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    rows: Mapping[str, tuple[Rows, ...]] = field(default_factory=dict)

    @property
    def resident(self) -> int:
        """Bytes of memory that weights take at most."""
        return self.window + self.pinned + self.table_rows
