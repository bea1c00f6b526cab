"""What this machine can do at most, measured once (`microkernels.py`) and kept.

`limits.json` of the cache folder has a row for each CPU, set of instructions and number of threads.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optc.ir.diagnostics import OptcError
from optc.ir.output import replace_file
from optc.ir.targets.target import Target
from optc.microkernels import measure
from optc.roofline import Level, Limits

VERSION = 4  # of the measurement: raised when it changes, so that kept results are not reused
FILE = "limits.json"


def kept_limits(target: Target, threads: int, cache: Path) -> Limits | None:
    """What `limits_of` kept in `cache`, if anything."""
    return _limits(_table(cache / FILE).get(_key(target, threads)))


def limits_of(target: Target, threads: int, cache: Path, *, again: bool = False) -> Limits:
    """This machine's limits, measured now unless `cache` has them; raises E0501 (no C compiler).

    `target` is the host, or this machine with fewer instructions (`host_with`); `cache` is a folder
    that is made when it is missing and may be unwritable. `again` measures once more and keeps the
    better: what was measured on a busy machine is too low.
    """
    known = kept_limits(target, threads, cache)
    if known is not None and not again:
        return known
    found = measure(target, threads, cache)
    best = found if known is None else known.better(found)
    _keep(cache / FILE, _key(target, threads), best)
    return best


def _key(target: Target, threads: int) -> str:
    features = " ".join(sorted(target.features))
    return f"{VERSION}; {target.description}; {features}; threads {threads}"


def _limits(row: Any) -> Limits | None:
    if not isinstance(row, dict):
        return None
    try:
        levels = tuple(
            Level(**{**level, "crowded": tuple(level["crowded"])}) for level in row["levels"]
        )
        return Limits(**{**row, "levels": levels})
    except (KeyError, TypeError):
        return None


def _table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _keep(path: Path, key: str, limits: Limits) -> None:
    table = {name: row for name, row in _table(path).items() if name.startswith(f"{VERSION};")}
    table[key] = asdict(limits)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as aside:
            aside.write_text(json.dumps(table, indent=1) + "\n")
    except (OSError, OptcError):
        return  # a cache that cannot be written costs two seconds next time, nothing else
