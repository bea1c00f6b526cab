"""Offsets for few values by integer programming: no plan needs less, where the solver ends.

One binary for each pair of values alive together says which of the two is the lower (Sekiyama et
al., "Profile-guided memory optimization for deep neural networks", 2018, give this program). Solved
by HiGHS, within a number of nodes and not of seconds: equal input gives an equal plan.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NODES = 500


def exact_offsets(
    rows: Sequence[tuple[int, int, int]], unit: int, bound: int, ceiling: int, nodes: int = NODES
) -> NDArray[np.int64] | None:
    """Offsets in bytes for (size, first, last); None where the solver found none.

    The arena has at least `bound` bytes, which is known of every plan, and at most `ceiling`; both
    and the sizes are multiples of `unit`.
    """
    pairs = [
        (i, j)
        for i, (one, first, last) in enumerate(rows)
        for j, (other, begin, end) in enumerate(rows[:i])
        if one and other and first <= end and begin <= last
    ]
    if not pairs:
        return np.zeros(len(rows), dtype=np.int64)
    sizes = [size // unit for size, _, _ in rows]
    solution = _solved(sizes, pairs, (bound // unit, ceiling // unit), nodes)
    return None if solution is None else _settled(rows, solution)


def _solved(
    sizes: Sequence[int], pairs: Sequence[tuple[int, int]], arena: tuple[int, int], nodes: int
) -> NDArray[np.float64] | None:
    """Offsets as the solver gives them, real numbers of units."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import lil_matrix

    count, (bound, ceiling) = len(sizes), arena
    width = count + len(pairs) + 1  # offsets, who is lower, the arena
    table = lil_matrix((2 * len(pairs) + count, width))
    limits = np.zeros(2 * len(pairs) + count)
    for row, (i, j) in enumerate(pairs):
        # Lower 1: offset_i + size_i <= offset_j; lower 0: offset_j + size_j <= offset_i.
        for at, low, high, sign in ((2 * row, i, j, 1), (2 * row + 1, j, i, -1)):
            table[at, low], table[at, high] = 1, -1
            table[at, count + row] = sign * ceiling
            limits[at] = -sizes[low] + (ceiling if sign == 1 else 0)
    for i, size in enumerate(sizes):
        table[2 * len(pairs) + i, i], table[2 * len(pairs) + i, width - 1] = 1, -1
        limits[2 * len(pairs) + i] = -size
    goal = np.zeros(width)
    goal[-1] = 1
    lower, upper = np.zeros(width), np.full(width, float(ceiling))
    lower[-1] = bound
    upper[count:-1] = 1
    kinds = np.zeros(width)
    kinds[count:-1] = 1
    for presolve in (True, False):  # HiGHS 1.12 gives up on some of these while it presolves
        found = milp(
            goal,
            integrality=kinds,
            bounds=Bounds(lower, upper),
            constraints=LinearConstraint(table.tocsr(), -np.inf, limits),
            options={"node_limit": nodes, "presolve": presolve},
        )
        if found.x is not None:
            return np.asarray(found.x[:count], dtype=np.float64)
    return None


def _settled(
    rows: Sequence[tuple[int, int, int]], solution: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The values from the lowest on, each as low as it gets: whole bytes, without rounding."""
    offsets = np.zeros(len(rows), dtype=np.int64)
    placed: list[int] = []
    for index in np.argsort(solution, kind="stable").tolist():
        size, first, last = rows[index]
        below = [
            int(offsets[other]) + rows[other][0]
            for other in placed
            if size and rows[other][0] and rows[other][1] <= last and first <= rows[other][2]
        ]
        offsets[index] = max(below, default=0)
        placed.append(index)
    return offsets
