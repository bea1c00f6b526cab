"""The table behind `optc ops`: every core ATen op, yes or the reason, and the share of yes.

An op is a yes when it has a rule and when all its samples were compiled for the host, run, and
found equal to PyTorch's results. `measured.json` records that; the contract test holds it to what
it measures (tests/contracts/test_aten_core.py, which writes it when told `--update`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("measured.json")
_UNMEASURED = "not measured: pytest tests/contracts/test_aten_core.py --update"


@dataclass(frozen=True, slots=True)
class Measurement:
    """How many sample calls of an op agreed with PyTorch, and in which dtypes (f32, ...)."""

    samples: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OpRow:
    """One op: its name, whether it counts, whether it compiles, and the reason if it does not."""

    name: str
    overloads: tuple[str, ...]
    counts: bool
    supported: bool
    reason: str
    measured: Measurement | None = None


@dataclass(frozen=True, slots=True)
class OpTable:
    """All rows sorted by name, and the version of torch that was measured."""

    rows: tuple[OpRow, ...]
    torch: str

    @property
    def counted(self) -> tuple[OpRow, ...]:
        """The rows that count: neither backward nor random nor symbolic nor in-place."""
        return tuple(row for row in self.rows if row.counts)

    @property
    def supported(self) -> tuple[OpRow, ...]:
        """The rows that count and compile."""
        return tuple(row for row in self.counted if row.supported)

    @property
    def percentage(self) -> float:
        """Share of the counted rows that is supported, in percent."""
        return 100.0 * len(self.supported) / len(self.counted)

    @property
    def samples(self) -> int:
        """Sample calls behind the supported rows."""
        return sum(row.measured.samples for row in self.supported if row.measured)


def op_table() -> OpTable:
    """The table for the torch that is installed; imports torch."""
    from optc.ir.capture.coverage import coverage

    record = read()
    rows: list[OpRow] = []
    for item in coverage():
        measured = _measurement(record["ops"].get(item.name)) if item.supported else None
        supported = item.supported and (measured is not None or not item.counts)
        reason = item.reason if supported or not item.supported else _UNMEASURED
        rows.append(OpRow(item.name, item.overloads, item.counts, supported, reason, measured))
    return OpTable(tuple(rows), record["torch"])


def read() -> dict[str, Any]:
    """The record as it is on disk: the version of torch, and samples and dtypes by op."""
    record: dict[str, Any] = json.loads(MEASURED.read_text())
    return record


def write(torch: str, ops: Mapping[str, Measurement]) -> None:
    """Replace the record; one op a line, sorted, so that a change reads well."""
    lines = [
        f"  {json.dumps(name)}: " + json.dumps({"samples": of.samples, "dtypes": of.dtypes})
        for name, of in sorted(ops.items())
    ]
    body = ",\n".join(lines)
    MEASURED.write_text(f'{{"torch": {json.dumps(torch)}, "ops": {{\n{body}\n}}}}\n')


def _measurement(entry: Mapping[str, Any] | None) -> Measurement | None:
    return None if entry is None else Measurement(entry["samples"], tuple(entry["dtypes"]))
