"""What is kept of a timed compilation: table and picture are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One compilation: nodes as captured, kernel calls made, seconds by stage."""

    family: str
    nodes: int
    calls: int
    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """All stages."""
        return sum(self.seconds.values())
