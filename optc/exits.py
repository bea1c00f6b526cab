"""Artifacts with exits: thresholds that people set, and what each way through a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.bench import Percentiles
from optc.ir.diagnostics import OptcError, error
from optc.runtime import Artifact

WORDS = {"never": inf, "always": -inf}
UNIT = ("maxprob", "entropy", "margin")  # decisions whose scores lie between 0 and 1
END = "end"  # the way that takes no exit
LARGEST, HALVINGS = 1e4, 48  # the search for a threshold that forces a way


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Numbers, `never` or `always`, with commas between them; raises E0766."""
    found = []
    for piece in text.split(","):
        word = piece.strip().lower()
        try:
            found.append(WORDS[word] if word in WORDS else float(word))
        except ValueError:
            raise _bad(f"{piece.strip()!r} is no threshold") from None
    return tuple(found)


def set_thresholds(artifact: Artifact, thresholds: Sequence[float]) -> None:
    """One threshold for all exits, or one for each, in order; raises E0766.

    An exit is taken where the score of every row reaches its threshold.
    """
    exits = deciding(artifact)
    if not exits:
        raise _bad(f"{artifact.name} has no exits, so no thresholds")
    if len(thresholds) not in (1, len(exits)):
        raise _bad(f"{len(thresholds)} thresholds, {artifact.name} has {len(exits)} for its exits")
    decision = artifact.manifest["metadata"].get("decision", "")
    each = tuple(thresholds) * (len(exits) if len(thresholds) == 1 else 1)
    for value in each:
        within = decision not in UNIT or abs(value) == inf or 0 <= value <= 1
        if isnan(value) or not within:
            raise _bad(f"{value:g} is no {decision or 'threshold'}, which lies between 0 and 1")
    for exit, value in zip(exits, each, strict=True):
        artifact.set_parameter(f"{exit}.threshold", float(value))


def deciding(artifact: Artifact) -> tuple[str, ...]:
    """The exits that have a threshold; where rows are packed, the others follow from it."""
    return tuple(name for name in artifact.exits if f"{name}.threshold" in artifact.parameters)


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the model: what it takes, and the share of calls that went it."""

    name: str
    times: Percentiles
    share: float


@dataclass(frozen=True, slots=True)
class Paths:
    """All ways, those that leave first before."""

    paths: tuple[Path, ...]
    calls: int  # that the shares are of
    nanoseconds: tuple[NDArray[np.uint64], ...]

    @property
    def expected(self) -> float:
        """Seconds of a call on average over the ways, each at its median.

        Means would count what disturbed the machine: they can lie beyond the longest way.
        """
        return sum(path.share * path.times.p50 for path in self.paths)

    @property
    def p99(self) -> float:
        """What 99 of 100 calls do not exceed, in seconds."""
        times = np.concatenate(self.nanoseconds)
        weights = np.concatenate(
            [
                np.full(len(part), path.share / len(part))
                for path, part in zip(self.paths, self.nanoseconds, strict=True)
            ]
        )
        order = np.argsort(times)
        place = int(np.searchsorted(np.cumsum(weights[order]), 0.99 * weights.sum()))
        return float(times[order][min(place, len(times) - 1)]) * 1e-9

    @property
    def worst(self) -> Path:
        """The way that takes longest."""
        return max(self.paths, key=lambda path: path.times.p50)


def measure_paths(
    artifact: Artifact,
    inputs: Mapping[str, NDArray[Any]],
    counts: Mapping[str, int],
    runs: int,
) -> Paths:
    """Time every way by forcing it, in turns, so that a machine's drift hits all alike.

    `counts` say how many calls took each exit and went to the `end`. Thresholds are as they were
    afterwards. A way that these inputs cannot be made to take is left out.
    """
    kept = artifact.parameters
    names = (*artifact.exits, END)
    settings = [_forcing(artifact, inputs, name) for name in names]
    rounds = max(1, min(5, runs // 4))
    times: dict[str, list[NDArray[np.uint64]]] = {name: [] for name in names}
    try:
        for _ in range(rounds):
            for name, setting in zip(names, settings, strict=True):
                if setting is None:
                    continue
                _set(artifact, setting)
                artifact.bench(**inputs, runs=1)
                times[name].append(artifact.bench(**inputs, runs=max(1, runs // rounds)))
    finally:
        for parameter, value in kept.items():
            artifact.set_parameter(parameter, value)
    whole = max(1, sum(counts.values()))
    names = tuple(name for name in names if times[name])
    found = tuple(np.concatenate(times[name]) for name in names)
    rows = zip(names, found, strict=True)
    paths = tuple(Path(n, Percentiles.of(t), counts.get(n, 0) / whole) for n, t in rows)
    return Paths(paths, whole, found)


def _forcing(
    artifact: Artifact, inputs: Mapping[str, NDArray[Any]], name: str
) -> Mapping[str, float] | None:
    """Thresholds with which these inputs take a way; None where none were found.

    An exit without a threshold of its own lies between never and always of the one before it.
    """
    exits = deciding(artifact)
    never = dict.fromkeys(exits, inf)
    if name == END:
        return never
    if name in exits:
        return {**never, name: -inf}
    order = artifact.exits
    owner = next((e for e in reversed(order[: order.index(name)]) if e in exits), None)
    if owner is None:
        return None
    low, high = -LARGEST, LARGEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        _set(artifact, {**never, owner: middle})
        taken = _way(artifact, inputs)
        if taken == name:
            return {**never, owner: middle}
        later = taken == END or order.index(taken) > order.index(name)
        low, high = (low, middle) if later else (middle, high)
    return None


def _way(artifact: Artifact, inputs: Mapping[str, NDArray[Any]]) -> str:
    """The way that a call takes."""
    before = artifact.exit_runs()
    artifact(**inputs)
    after = artifact.exit_runs()
    return next((name for name in after if after[name] > before[name]), END)


def _set(artifact: Artifact, thresholds: Mapping[str, float]) -> None:
    for name, value in thresholds.items():
        artifact.set_parameter(f"{name}.threshold", value)


def counted(artifact: Artifact, calls: int) -> Mapping[str, int]:
    """Of `calls` calls since loading: how many left by each exit, and went to the end."""
    runs = dict(artifact.exit_runs())
    return {**runs, END: calls - sum(runs.values())} if runs else {}


def _bad(message: str) -> OptcError:
    return error("E0766", message, help="--threshold 0.9, --threshold 0.9,0.8 or --threshold never")
