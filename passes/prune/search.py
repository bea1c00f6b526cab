"""Which k of n blocks to skip: all choices, one by one, or by evolution.

A choice is a set of block numbers; `Cost` says what it loses, and smaller is better. Every choice
is asked for once. Greedy removal is SLEB's (Song et al. 2024). Evolution is EvoP's pattern search
(Wu et al. 2025, EPPS): tournaments of three, crossover at two points, mutation bit by bit, repair
to k ones, and the best choice of all generations kept. Ours differ in three ways: a bit mutates
with probability 1/n, as their 0.001 does nothing for a dozen blocks; the best of parents and
children live on, as evaluations are dear; and a child that was seen before is mutated on, so that a
space smaller than all generations together is searched as a whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Choice = frozenset[int]
Cost = Callable[[Choice], tuple[float, ...]]
Bits = NDArray[np.bool_]
TOURNAMENT = 3
PATIENCE = 5  # generations without a better choice before the search ends
TRIES = 50  # mutations of a child that was seen before it counts as a stillbirth


class Search(Enum):
    """How the choice is made."""

    EXHAUSTIVE = "exhaustive"
    GREEDY = "greedy"
    EVOLUTIONARY = "evolutionary"


@dataclass
class Seen:
    """Costs of the choices so far; of equals the first in order of their numbers is the best."""

    cost: Cost
    costs: dict[Choice, tuple[float, ...]] = field(default_factory=dict)

    def __call__(self, choice: Choice) -> tuple[float, ...]:
        """The cost of a choice, asked for once; what is not a number is worse than all else."""
        if choice not in self.costs:
            found = self.cost(choice)
            self.costs[choice] = tuple(math.inf if math.isnan(x) else x for x in found)
        return self.costs[choice]

    def best(self, size: int) -> Choice:
        """The best of the choices of `size` blocks."""
        return min(
            (choice for choice in self.costs if len(choice) == size),
            key=lambda choice: (self.costs[choice], sorted(choice)),
        )


def exhaustive(n: int, k: int, cost: Seen) -> Choice:
    """The best of all choices: C(n, k) questions."""
    for numbers in itertools.combinations(range(n), k):
        cost(frozenset(numbers))
    return cost.best(k)


def greedy(n: int, k: int, cost: Seen) -> Choice:
    """One block more at a time, always the cheapest: about n * k questions."""
    chosen: Choice = frozenset()
    for _ in range(k):
        more = [chosen | {number} for number in range(n) if number not in chosen]
        chosen = min(more, key=lambda choice: (cost(choice), sorted(choice)))
    cost(chosen)
    return chosen


def evolutionary(
    n: int,
    k: int,
    cost: Seen,
    *,
    population: int,
    generations: int,
    seed: int,
    first: tuple[Choice, ...] = (),
) -> Choice:
    """The best choice of all generations, beside those in `first`; needs 0 < k < n."""
    draw = np.random.default_rng(seed)
    space = math.comb(n, k)
    known = set(first)
    people = [*first, *itertools.islice(_strangers(n, k, draw, known), population - len(first))]
    best, since = min(map(cost, people)), 0
    patience = PATIENCE if space > population * generations else generations
    for _ in range(generations - 1):
        if len(known) >= space or since >= patience:
            break
        children = list(itertools.islice(_children(n, k, people, cost, draw, known), population))
        least = min(map(cost, children), default=(math.inf,))
        best, since = (least, 0) if least < best else (best, since + 1)
        people = sorted((*people, *children), key=cost)[:population]
    return cost.best(k)


def _strangers(n: int, k: int, draw: np.random.Generator, known: set[Choice]) -> Iterator[Choice]:
    """Random choices that nobody knows, and then are known."""
    while len(known) < math.comb(n, k):
        found = frozenset(draw.permutation(n)[:k].tolist())
        if found not in known:
            known.add(found)
            yield found


def _children(
    n: int, k: int, people: list[Choice], cost: Seen, draw: np.random.Generator, known: set[Choice]
) -> Iterator[Choice]:
    strangers = _strangers(n, k, draw, known)
    while len(known) < math.comb(n, k):
        mother, father = (_winner(people, cost, draw) for _ in range(2))
        child = _crossed(_bits(mother, n), _bits(father, n), draw)
        for _ in range(TRIES):
            child ^= draw.random(n) < 1 / n
            _repair(child, k, draw)
            found = frozenset(np.flatnonzero(child).tolist())
            if found not in known:
                known.add(found)
                yield found
                break
        else:
            yield next(strangers)


def _winner(people: list[Choice], cost: Seen, draw: np.random.Generator) -> Choice:
    entered = draw.integers(0, len(people), TOURNAMENT)
    return min((people[number] for number in entered), key=cost)


def _crossed(mother: Bits, father: Bits, draw: np.random.Generator) -> Bits:
    low, high = sorted(draw.integers(0, len(mother) + 1, 2))
    child = mother.copy()
    child[low:high] = father[low:high]
    return child


def _repair(bits: Bits, k: int, draw: np.random.Generator) -> None:
    """Clear random ones, or set random zeros, until there are k ones."""
    more = int(bits.sum()) - k
    if more:
        places = np.flatnonzero(bits == (more > 0))
        bits[draw.permutation(places)[: abs(more)]] = more < 0


def _bits(choice: Choice, n: int) -> Bits:
    bits = np.zeros(n, dtype=np.bool_)
    bits[list(choice)] = True
    return bits
