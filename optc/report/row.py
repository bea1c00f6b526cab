"""A line of the closing table, which several parts of the report make."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what is measured, for the model as captured and as compiled."""

    label: str
    before: str
    after: str
