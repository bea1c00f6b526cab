"""The table behind `optc ops`: every core ATen op, yes or the reason, and the share of yes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpRow:
    """One op: its name, whether it counts, whether it compiles, and the reason if it does not."""

    name: str
    overloads: tuple[str, ...]
    counts: bool
    supported: bool
    reason: str


@dataclass(frozen=True, slots=True)
class OpTable:
    """All rows sorted by name, and the share of the counted ones that is supported, in percent."""

    rows: tuple[OpRow, ...]
    percentage: float

    @property
    def counted(self) -> tuple[OpRow, ...]:
        """The rows that count: neither backward nor random nor symbolic."""
        return tuple(row for row in self.rows if row.counts)


def op_table() -> OpTable:
    """The table for the torch that is installed; imports torch."""
    from optc.ir.capture.coverage import coverage, percentage

    rows = tuple(
        OpRow(item.name, item.overloads, item.counts, item.supported, item.reason)
        for item in coverage()
    )
    return OpTable(rows, percentage())
