"""Which candidate to measure next: every search asks and is told, and knows no kernel."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from optc.backends.tvm.templates.plan import Knobs


class Strategy(Enum):
    """The searches by their names on the command line."""

    EVOLUTIONARY = "evolutionary"
    RANDOM = "random"
    EXHAUSTIVE = "exhaustive"


# Seconds that a candidate is thought to take; only their order counts.
Predict = Callable[[Sequence[Knobs]], Sequence[float]]


class Search(Protocol):
    """Proposes candidates of one task; those that it was told of are never proposed again."""

    def ask(self, count: int) -> list[Knobs]:
        """At most `count` candidates worth measuring next; empty when all are known."""
        ...

    def tell(self, knobs: Knobs, seconds: float | None) -> None:
        """What a candidate took; None when it failed."""
        ...


@dataclass
class Exhaustive:
    """All candidates, in the order of the analytic model."""

    candidates: Sequence[Knobs]
    told: dict[str, float | None] = field(default_factory=dict)

    def ask(self, count: int) -> list[Knobs]:
        """The next ones."""
        return _unknown(self.candidates, self.told)[:count]

    def tell(self, knobs: Knobs, seconds: float | None) -> None:
        """Strike it off."""
        self.told[repr(knobs)] = seconds


@dataclass
class Random:
    """Candidates in a seeded random order, after the analytic model's best guess."""

    candidates: Sequence[Knobs]
    seed: int = 0
    told: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first, rest = list(self.candidates[:1]), list(self.candidates[1:])
        random.Random(self.seed).shuffle(rest)
        self.candidates = [*first, *rest]

    def ask(self, count: int) -> list[Knobs]:
        """The next ones."""
        return _unknown(self.candidates, self.told)[:count]

    def tell(self, knobs: Knobs, seconds: float | None) -> None:
        """Strike it off."""
        self.told[repr(knobs)] = seconds


@dataclass
class Evolutionary:
    """Neighbours of the fastest, ranked by `predict`, and some at random (Zheng et al. 2020, 5.2).

    A neighbour differs in one field. Without a model, candidates rank as the analytic model put
    them.
    """

    candidates: Sequence[Knobs]
    predict: Predict | None = None
    seed: int = 0
    parents: int = 4
    at_random: float = 0.2  # share of each batch
    told: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def ask(self, count: int) -> list[Knobs]:
        """Neighbours of the fastest first, then whatever the model thinks fast."""
        unknown = _unknown(self.candidates, self.told)
        if not unknown:
            return []
        ranked = self._ranked(unknown)
        best = self._fastest()
        near = [knobs for knobs in ranked if any(distance(knobs, other) == 1 for other in best)]
        chance = max(1, int(count * self.at_random)) if best and count > 1 else 0
        chosen = list(dict.fromkeys(map(repr, [*near, *ranked])))[: count - chance]
        rest = [repr(knobs) for knobs in unknown if repr(knobs) not in chosen]
        chosen += self._random.sample(rest, min(chance, len(rest)))
        by_name = {repr(knobs): knobs for knobs in unknown}
        return [by_name[name] for name in chosen]

    def tell(self, knobs: Knobs, seconds: float | None) -> None:
        """Remember it as a parent."""
        self.told[repr(knobs)] = seconds

    def _ranked(self, unknown: Sequence[Knobs]) -> list[Knobs]:
        if self.predict is None:
            return list(unknown)
        scores = self.predict(unknown)
        order = sorted(range(len(unknown)), key=lambda place: scores[place])
        return [unknown[place] for place in order]

    def _fastest(self) -> list[Knobs]:
        ran = {name: seconds for name, seconds in self.told.items() if seconds is not None}
        names = sorted(ran, key=ran.__getitem__)[: self.parents]
        by_name = {repr(knobs): knobs for knobs in self.candidates}
        return [by_name[name] for name in names if name in by_name]


def search(
    strategy: Strategy, candidates: Sequence[Knobs], predict: Predict | None = None, seed: int = 0
) -> Search:
    """A new search over the candidates of a task."""
    match strategy:
        case Strategy.EVOLUTIONARY:
            return Evolutionary(candidates, predict, seed)
        case Strategy.RANDOM:
            return Random(candidates, seed)
        case Strategy.EXHAUSTIVE:
            return Exhaustive(candidates)


def distance(a: Knobs, b: Knobs) -> int:
    """In how many fields two settings of one template differ."""
    if type(a) is not type(b) or not dataclasses.is_dataclass(a):
        return 1 << 16
    return sum(getattr(a, f.name) != getattr(b, f.name) for f in dataclasses.fields(a))


def _unknown(candidates: Sequence[Knobs], told: Mapping[str, float | None]) -> list[Knobs]:
    return [knobs for knobs in candidates if repr(knobs) not in told]
