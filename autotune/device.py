"""Where candidates are built and measured, from the words that people use for it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from optc.autotune.builders import Builders, LocalBuilders
from optc.autotune.builders_dask import DaskBuilders
from optc.autotune.local import LocalMeasurer
from optc.autotune.measurer_trials import Pace, TrialMeasurer
from optc.ir.diagnostics import OptcError, error
from optc.ir.targets.target import Target

if TYPE_CHECKING:
    from optc.autotune.remote import Tracker

FORMS = "tracker:HOST:PORT/KEY, or run:COMMAND for an emulator on this machine"


def open_measurer(
    target: Target,
    device: str = "",
    workers: str = "",
    pace: Pace | None = None,
    cache: Path | None = None,
) -> TrialMeasurer:
    """The measurer for `device`: empty for this machine, `tracker:HOST:PORT/KEY`, `run:COMMAND`.

    `workers` is a number of processes, or the address of a Dask scheduler (`tcp://host:8786`).
    `cache` keeps what every session compiles alike. Raises E0735 and E0736 when nobody answers,
    E0737 for words that say nothing.
    """
    kind, _, rest = device.partition(":")
    if kind not in ("", "tracker", "run") or (kind and not rest.strip()):
        raise error("E0737", f"{device!r} is no device: {FORMS}")
    tracker = parse_tracker(rest) if kind == "tracker" else None
    builders = open_builders(workers)
    try:
        if tracker is not None:
            from optc.autotune.remote import RemoteMeasurer  # loads TVM's client

            return RemoteMeasurer(target, tracker, builders=builders, pace=pace, cache=cache)
        prefix = shlex.split(rest)
        return LocalMeasurer(target, prefix=prefix, builders=builders, pace=pace, cache=cache)
    except OptcError:
        builders.close()
        raise


def parse_tracker(text: str) -> Tracker:
    """`HOST:PORT/KEY`; raises E0737."""
    from optc.autotune.remote import Tracker  # loads TVM's client

    address, _, key = text.partition("/")
    host, _, port = address.rpartition(":")
    if not host or not key or not port.isdecimal():
        raise error("E0737", f"{text!r} is no device of a tracker: {FORMS}")
    return Tracker(host, int(port), key)


def open_builders(workers: str) -> Builders:
    """A number of processes here (empty: one for each core), or a Dask scheduler's address."""
    if workers == "" or (workers.isdecimal() and int(workers) > 0):
        return LocalBuilders(int(workers) if workers else None)
    if "://" not in workers:
        raise error("E0737", f"{workers!r} is neither a number of workers nor tcp://HOST:PORT")
    return DaskBuilders(workers)
