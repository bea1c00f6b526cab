"""Solving the ties: which atoms form one component, and why a component stays.

Plain ties are one call of connected components. Split and merged axes come after: an axis that a
reshape factors can lose positions of one factor only, and which one is best is seen once it is
known what is pinned. Heads leave in [E] -> [H, D], channels in [H, W, C] -> [HWC].
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from optc.passes.prune.ties import Atoms, Factored, Pin, Ties

FREE = np.iinfo(np.int64).max  # the pin number of what is not pinned


class Solution:
    """A component for every atom, and the first pin of every component."""

    def __init__(self, ties: Ties) -> None:
        self.ties = ties
        self.pins: list[Pin] = []
        count, self.label = _connected(ties)
        self.parent = np.arange(count)
        self.pin_of = np.full(count, FREE)
        for atoms, pin in ties.pinned:
            self._pin(atoms, self._number(pin))
        for split in ties.factored:
            self._decide(split)
        self._finish()

    def _number(self, pin: Pin) -> int:
        if not self.pins or self.pins[-1] is not pin:
            self.pins.append(pin)
        return len(self.pins) - 1

    def _roots(self, atoms: Atoms) -> Atoms:
        roots = self.label[atoms]
        while True:
            above = self.parent[roots]
            if np.array_equal(above, roots):
                return roots
            roots = above

    def _pin(self, atoms: Atoms, number: int) -> None:
        roots = self._roots(atoms)
        self.pin_of[roots] = np.minimum(self.pin_of[roots], number)

    def _decide(self, split: Factored) -> None:
        """Choose the outermost factor that has something to remove; the others are pinned."""
        chosen = next(
            (n for n, size in enumerate(split.factors) if size > 1 and self._open(split, n)), None
        )
        axes = [(self.ties.atoms(value, axis), a, b) for value, axis, a, b in split.axes]
        if chosen is None:  # all stay, but heads are still told from other features
            every = np.concatenate([atoms for atoms, _, _ in axes])
            self._pin(every, int(self.pin_of[self._roots(every)].min()))
            chosen = 0
        sides = (f"{value.type}" for value in dict.fromkeys(value for value, *_ in split.axes))
        reason = f"the reshape {' to '.join(sides)} leaves another axis free to shrink"
        heads: Atoms | None = None
        for atoms, first, last in axes:
            if not first <= chosen < last:
                self._pin(atoms, self._number(Pin(reason, split.loc)))
                continue
            digits = _digits(split.factors, first, last, chosen)
            if heads is None:
                heads = atoms[np.unique(digits, return_index=True)[1]]
            self._unite(atoms, heads[digits])

    def _open(self, split: Factored, chosen: int) -> bool:
        """Whether some position of a factor is unpinned everywhere."""
        free = np.ones(split.factors[chosen], dtype=bool)
        for value, axis, first, last in split.axes:
            if first <= chosen < last:
                digits = _digits(split.factors, first, last, chosen)
                pinned = self.pin_of[self._roots(self.ties.atoms(value, axis))] != FREE
                free[digits[pinned]] = False
        return bool(free.any())

    def _unite(self, left: Atoms, right: Atoms) -> None:
        for a, b in set(zip(self._roots(left).tolist(), self._roots(right).tolist(), strict=True)):
            low, high = sorted((self._root(a), self._root(b)))
            self.parent[high] = low
            self.pin_of[low] = min(self.pin_of[low], self.pin_of[high])

    def _root(self, label: int) -> int:
        while (above := int(self.parent[label])) != label:
            self.parent[label] = self.parent[above]
            label = above
        return label

    def _finish(self) -> None:
        roots = self._roots(np.arange(self.ties.count))
        used, self.component = np.unique(roots, return_inverse=True)
        self.pin_of = self.pin_of[used]


def _connected(ties: Ties) -> tuple[int, NDArray[np.int64]]:
    empty = [np.zeros(0, np.int64)]
    left = np.concatenate([a for a, _ in ties.tied] or empty)
    right = np.concatenate([b for _, b in ties.tied] or empty)
    ones = np.ones(len(left), dtype=np.int8)
    graph = coo_array((ones, (left, right)), shape=(ties.count, ties.count))
    count, label = connected_components(graph, directed=False)
    return count, label.astype(np.int64)


def _digits(factors: tuple[int, ...], first: int, last: int, chosen: int) -> Atoms:
    """The place along factor `chosen` of each position of the axis made of factors first..last."""
    positions = np.arange(math.prod(factors[first:last]))
    return positions // math.prod(factors[chosen + 1 : last]) % factors[chosen]
