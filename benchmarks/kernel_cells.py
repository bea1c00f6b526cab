"""What is kept of a measured kernel: table and picture are made of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A measured kernel: seconds of its fastest call, of its least time, and what binds."""

    family: str
    row: str
    column: str
    template: str
    seconds: float
    limit: float
    bound: str
    speed: float  # operations per second
    date: str

    @property
    def key(self) -> str:
        """Which of them it is."""
        return f"{self.family} {self.row} {self.column}"
