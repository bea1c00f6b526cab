"""What was measured, one line of JSON each, appended and never changed.

A line that was cut short (a killed process, a full disk) is skipped when the file is read; the next
append begins on a line of its own. Several processes may append at once.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from optc.ir.diagnostics import error

VERSION = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One candidate, measured: `seconds` of a call, or why there are none.

    `key` is the task's, `knobs` the repr of the template's settings, `machine` where it ran.
    `times` are the single measurements that `seconds` was taken from, in `runs` runs of the
    measurer; `features` are those of `features.py` in backends/tvm, empty when there are none.
    """

    key: str
    task: str
    template: str
    knobs: str
    seconds: float | None
    times: tuple[float, ...] = ()
    error: str = ""
    machine: str = ""
    runs: int = 1
    features: tuple[float, ...] = ()
    version: int = VERSION


@dataclass(eq=False)
class Records:
    """Records of a file, by task; new ones go to its end at once."""

    path: Path
    _by_task: dict[str, dict[str, Record]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Records:
        """Read the file, which need not exist yet."""
        records = cls(path)
        for record in read(path):
            records._keep(record)
        return records

    @classmethod
    def existing(cls, path: Path) -> Records:
        """Read a file that somebody named; raises E0112 and E0730 when it holds no records."""
        try:
            nothing = path.stat().st_size == 0
            records = cls.open(path)
        except OSError as problem:
            raise error("E0112", f"cannot read {path}: {problem.strerror}") from problem
        if not nothing and not len(records):
            raise error(
                "E0730",
                f"{path} holds no records of this version",
                help="optc tune MODEL --records NEW.jsonl",
            )
        return records

    def __len__(self) -> int:
        return sum(map(len, self._by_task.values()))

    def __iter__(self) -> Iterator[Record]:
        for of_task in self._by_task.values():
            yield from of_task.values()

    def of(self, key: str) -> Mapping[str, Record]:
        """What is known of a task, by knobs; of several records the one of the most runs."""
        return self._by_task.get(key, {})

    def best(self, key: str) -> Record | None:
        """The fastest candidate of a task; None when none ran."""
        ran = [record for record in self.of(key).values() if record.seconds is not None]
        return min(ran, key=lambda record: record.seconds or 0.0, default=None)

    def add(self, records: Iterable[Record]) -> int:
        """Append what says more than is known; returns how many lines that were."""
        fresh = [record for record in records if self._keep(record)]
        if fresh:
            append(self.path, fresh)
        return len(fresh)

    def _keep(self, record: Record) -> bool:
        of_task = self._by_task.setdefault(record.key, {})
        known = of_task.get(record.knobs)
        if known is not None and _rank(known) <= _rank(record):
            return False
        of_task[record.knobs] = record
        return True


def _rank(record: Record) -> tuple[bool, int, float]:
    return record.seconds is None, -record.runs, record.seconds or 0.0


def read(path: Path) -> Iterator[Record]:
    """The records of a file in their order; lines that are no records are skipped."""
    try:
        content = path.read_text(errors="replace")
    except FileNotFoundError:
        return
    for line in content.splitlines():
        record = _parsed(line)
        if record is not None:
            yield record


def _parsed(line: str) -> Record | None:
    try:
        row = json.loads(line)
        if row["version"] != VERSION:
            return None
        lists = {name: tuple(row.get(name, ())) for name in ("times", "features")}
        return Record(**{**row, **lists})
    except (ValueError, TypeError, KeyError):
        return None


def text(records: Iterable[Record]) -> str:
    """Records as the lines of a file."""
    return "".join(json.dumps(asdict(record)) + "\n" for record in records)


def append(path: Path, records: Iterable[Record]) -> None:
    """Add lines to the end of the file, all of them or, on a full disk, at most a cut one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = text(records)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                lines = "\n" + lines
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())
