"""Where the values of a changed module come from in the original: what recovery passes compare.

A pass that removes parts of a module notes here what became of each value; a value that no pass
touched is its own origin, as it stays the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optc.ir.graph import Value
from optc.ir.module import Module

Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Origin:
    """A value of the original, and which positions of each of its axes are left."""

    value: Value
    kept: tuple[Positions, ...]


@dataclass
class Lineage:
    """The module as the first removing pass found it, and origins of values of today's module."""

    original: Module | None = None
    _origins: dict[Value, Origin] = field(default_factory=dict)

    def begin(self, module: Module) -> None:
        """Called by a pass that is about to remove something; the first call counts."""
        if self.original is None:
            self.original = module

    def follow(
        self, became: Mapping[Value, Value], mask: Callable[[Value, int], NDArray[np.bool_]]
    ) -> None:
        """Note values that became others; `mask` says what is kept of an axis of the old value."""
        for old, new in became.items():
            if new is old:
                continue
            before = self.origin(old)
            kept = tuple(positions[mask(old, axis)] for axis, positions in enumerate(before.kept))
            self._origins[new] = Origin(before.value, kept)

    def origin(self, value: Value) -> Origin:
        """Where a value comes from; itself where nothing was noted."""
        found = self._origins.get(value)
        return found or Origin(value, tuple(np.arange(extent) for extent in value.shape))
