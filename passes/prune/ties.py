"""What coupling rules work with: an atom for each position of each axis, ties between atoms, pins.

Two tied atoms go together or not at all; a pinned atom stays, for a reason. The collected ties are
solved in one go by `solution.py`, so that rules stay a few vectorised lines each. The idea of
following dependencies through every layer: DepGraph (Fang et al. 2023); tracking positions instead
of whole layers is what makes concats, splits and merged weights ordinary cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optc.ir.diagnostics import NOWHERE, Loc
from optc.ir.graph import Graph, Node, Value

Atoms = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pin:
    """Why positions stay, and the source line that wants them."""

    reason: str
    loc: Loc = NOWHERE


@dataclass(frozen=True, slots=True)
class Factored:
    """Axes that a reshape splits or merges: extents factor into `factors`, in row-major order.

    Each axis is (value, axis, first factor, one past its last); both sides cover all factors.
    """

    factors: tuple[int, ...]
    axes: tuple[tuple[Value, int, int, int], ...]
    loc: Loc


class Ties:
    """Collects what the rules say about one graph."""

    def __init__(self, graph: Graph) -> None:
        self.first: dict[Value, tuple[int, ...]] = {}
        self.count = 0
        self.tied: list[tuple[Atoms, Atoms]] = []
        self.pinned: list[tuple[Atoms, Pin]] = []
        self.factored: list[Factored] = []
        self.loc = NOWHERE
        for value in graph.values():
            starts = []
            for extent in value.shape:
                starts.append(self.count)
                self.count += extent
            self.first[value] = tuple(starts)

    def atoms(self, value: Value, axis: int) -> Atoms:
        """The atoms of an axis (negative axes count from the end), one per position."""
        start = self.first[value][axis]
        return np.arange(start, start + value.shape[axis])

    def tie(self, left: Atoms, right: Atoms) -> None:
        """Tie atoms pairwise; both arrays have one length."""
        assert left.shape == right.shape, (left.shape, right.shape)
        self.tied.append((left, right))

    def axis(self, a: Value, axis_a: int, b: Value, axis_b: int) -> None:
        """Tie two axes position by position."""
        self.tie(self.atoms(a, axis_a), self.atoms(b, axis_b))

    def same(self, a: Value, b: Value, axes: Iterable[int]) -> None:
        """Tie the axes that have the same numbers in both values."""
        for axis in axes:
            self.axis(a, axis, b, axis)

    def broadcast(self, small: Value, large: Value) -> None:
        """Tie axes from the last one on; a position that is repeated is tied to nothing."""
        for back in range(1, len(small.shape) + 1):
            if small.shape[-back] == large.shape[-back]:
                self.axis(small, -back, large, -back)

    def groups(self, atoms: Atoms, groups: Atoms) -> None:
        """Tie each atom to the atom of its group: equal parts of `atoms`, one per group."""
        self.tie(atoms, np.repeat(groups, len(atoms) // len(groups)) if len(groups) else atoms)

    def pin(self, value: Value, axes: Iterable[int], reason: str) -> None:
        """Keep all positions of some axes."""
        pin = Pin(reason, self.loc)
        self.pinned += [(self.atoms(value, axis), pin) for axis in axes]

    def pin_all(self, values: Iterable[Value], reason: str) -> None:
        """Keep all positions of all axes of some values."""
        for value in values:
            self.pin(value, range(value.type.rank), reason)


Rule = Callable[[Node, Ties], None]


@dataclass(frozen=True, slots=True)
class Whole:
    """An entry for an op that nothing can be removed from, and the reason."""

    reason: str

    def __call__(self, node: Node, ties: Ties) -> None:
        """Pin everything that the node touches."""
        ties.pin_all((*node.inputs, *node.outputs), self.reason)
