"""Coupling analysis: which positions of which axes of a graph can only be removed together.

Every (value, axis) of the graph, constants included, has a position-level answer, so tied weights,
concats, slices, merged projections and residual streams need no case of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optc.ir.graph import Graph, Value
from optc.ir.ops import Op
from optc.passes.prune import (
    coupling_contraction,
    coupling_movement,
    coupling_normalization,
    coupling_pointwise,
    coupling_quantization,
    coupling_reduction,
    coupling_window,
)
from optc.passes.prune.solution import FREE, Solution
from optc.passes.prune.ties import Pin, Rule, Ties

COUPLING: Mapping[type[Op], Rule] = {
    **coupling_pointwise.RULES,
    **coupling_movement.RULES,
    **coupling_reduction.RULES,
    **coupling_contraction.RULES,
    **coupling_normalization.RULES,
    **coupling_window.RULES,
    **coupling_quantization.RULES,
}
ONLY = "a tensor keeps the only position of an axis"
Place = tuple[Value, int]


@dataclass(frozen=True, eq=False)
class Family:
    """Components that lie on the same places, such as the 64 output channels of a stage.

    `places` are the (value, axis) that each component has a position on. A family with a pin
    stays; the components of another may be removed one by one, as long as one of them is left.
    """

    components: NDArray[np.int64]
    places: tuple[Place, ...]
    pin: Pin | None


@dataclass(frozen=True, eq=False)
class Couplings:
    """What `couplings` found: a component for each position of each axis of each value."""

    graph: Graph
    first: Mapping[Value, tuple[int, ...]]
    component: NDArray[np.int64]
    pin_of: NDArray[np.int64]
    pins: tuple[Pin, ...]

    def components(self, value: Value, axis: int) -> NDArray[np.int64]:
        """The component of each position of an axis."""
        start = self.first[value][axis]
        return self.component[start : start + value.shape[axis]]

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """All families that have a position on a constant, in order of their first position."""
        places = [(value, axis) for value in self.first for axis in range(value.type.rank)]
        extents = [value.shape[axis] for value, axis in places]
        place_of = np.repeat(np.arange(len(places)), extents)
        pairs = np.unique(self.component * np.int64(len(places)) + place_of)
        component, place = pairs // max(1, len(places)), pairs % max(1, len(places))
        starts = np.flatnonzero(np.diff(component, prepend=-1))
        held = np.array([value in self.graph.constants for value, _ in places], dtype=bool)
        touching = np.unique(component[held[place]])
        signature = _signatures(place, starts)
        found: dict[tuple[int, int], list[int]] = {}
        for number in touching.tolist():
            key = (int(signature[number]), int(self.pin_of[number]))
            found.setdefault(key, []).append(number)
        ends = np.append(starts[1:], len(place))
        return tuple(
            Family(
                np.array(members),
                tuple(places[n] for n in place[starts[members[0]] : ends[members[0]]]),
                None if pin == FREE else self.pins[pin],
            )
            for (_, pin), members in found.items()
        )


def couplings(graph: Graph, *, ports: bool = True) -> Couplings:
    """Analyse a graph; with `ports` its inputs and outputs stay as they are.

    Raises KeyError for an op without an entry in `COUPLING`.
    """
    ties = Ties(graph)
    if ports:
        ties.pin_all(graph.inputs, "its shape is that of an input, which is the caller's")
        ties.pin_all(graph.outputs, "its shape is that of an output, which is the caller's")
    for node in graph.nodes:
        ties.loc = node.loc
        COUPLING[type(node.op)](node, ties)
    only = Pin(ONLY)
    ties.pinned += [
        (ties.atoms(value, axis), only)
        for value in graph.values()
        for axis, extent in enumerate(value.shape)
        if extent == 1
    ]
    solution = Solution(ties)
    return Couplings(graph, ties.first, solution.component, solution.pin_of, tuple(solution.pins))


def _signatures(place: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number per component that is equal where the sets of places are."""
    if not len(place):
        return np.zeros(0, np.uint64)
    codes = np.random.Generator(np.random.PCG64(0)).integers(
        0, 1 << 63, int(place.max()) + 1, dtype=np.uint64
    )
    return np.add.reduceat(codes[place], starts)
