"""Artifacts timed side by side: in one process, in short turns, on the same calls.

A machine's clock, its caches and who else runs on it drift; between neighbouring turns they hardly
do. So what one artifact takes is divided by what another takes in the same turn, and the median of
these ratios is told with its quartiles. A call that leaves early counts as what it took: a turn's
time is the mean over its calls.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.bench import Percentiles
from optc.runtime import Artifact

Call = Mapping[str, NDArray[Any]]
SECONDS = 8.0  # for all turns, about
FEW, MANY = 5, 25  # turns
LEAST = 4  # calls of a turn, where there are as many
ASLEEP = 0.0005  # seconds after which threads of an artifact's pool wait no more (pool.c: 0.2 ms)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two artifacts side by side: each by itself, and the time of the second over the first's.

    `low` and `high` are the quartiles of the turns' ratios.
    """

    before: Percentiles
    after: Percentiles
    ratio: float
    low: float
    high: float

    @staticmethod
    def of(before: NDArray[np.uint64], after: NDArray[np.uint64]) -> Pair:
        """From the nanoseconds of each, [turns, calls]."""
        ratios = after.mean(1) / before.mean(1)
        low, middle, high = (float(x) for x in np.percentile(ratios, (25, 50, 75)))
        return Pair(
            Percentiles.of(before.ravel()), Percentiles.of(after.ravel()), middle, low, high
        )


def take_turns(
    artifacts: Sequence[Artifact], calls: Sequence[Call], seconds: float = SECONDS
) -> list[NDArray[np.uint64]]:
    """Nanoseconds of each artifact, [turns, calls]; of many calls some, evenly, if time is short.

    Who is first changes from turn to turn. A first turn is run and forgotten.
    """
    once = sum(float(_turn(artifact, calls[:1])[0]) for artifact in artifacts) * 1e-9
    room = int(seconds / FEW / max(once, 1e-9))
    chosen = _spread(calls, max(LEAST, room))
    start = time.perf_counter()
    for artifact in artifacts:
        _turn(artifact, chosen)
    count = int(seconds / (time.perf_counter() - start))
    found: list[list[NDArray[np.uint64]]] = [[] for _ in artifacts]
    for turn in range(max(FEW, min(MANY, count))):
        for place in range(len(artifacts)):
            index = (place + turn) % len(artifacts)
            found[index].append(_turn(artifacts[index], chosen))
    return [np.stack(turns) for turns in found]


def _turn(artifact: Artifact, calls: Sequence[Call]) -> NDArray[np.uint64]:
    """Every call once, after one that wakes the threads; those of others have gone to sleep."""
    time.sleep(ASLEEP)
    _run(artifact, calls[0])
    return np.array([_run(artifact, call) for call in calls])


def _run(artifact: Artifact, call: Call) -> np.uint64:
    if artifact.states:
        artifact.reset()
    found: np.uint64 = artifact.bench(**call, runs=1)[0]
    return found


def _spread(calls: Sequence[Call], most: int) -> Sequence[Call]:
    if len(calls) <= most:
        return calls
    return [calls[int(i)] for i in np.linspace(0, len(calls) - 1, most).round()]
