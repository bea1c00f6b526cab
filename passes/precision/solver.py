"""The choice for each layer as an integer program: the best plan within a limit of noise.

One binary per layer and choice; one number per value between layers and form, which is 1 where a
reader wants that form. Bits by integer programs: MixDQ (Zhao et al. 2024), HAWQ-V3 (Yao et al.
2021). Solved by HiGHS within a number of nodes and not of seconds: equal input, equal plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optc.passes.precision.choices import Choice
from optc.passes.precision.prices import Prices
from optc.passes.precision.stray_lines import no_stray_lines

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NODES = 20_000
LOST = 1e-8  # a share of the limit that does not count
_SECOND = 1e-3  # the weight of what decides between plans that are equal by the objective
_THIRD = 1e-6


class Objective(Enum):
    """What a plan should have least of; the other decides where plans are equal, then noise."""

    LATENCY = "latency"
    SIZE = "size"


def merit(prices: Prices, plan: Sequence[Choice], objective: Objective) -> float:
    """What the solver minimises, in shares of the plan in floats."""
    weights = _weights(prices, objective)
    parts = (prices.seconds(plan), prices.nbytes(plan), prices.noise(plan))
    return sum(weight * part for weight, part in zip(weights, parts, strict=True))


def _weights(prices: Prices, objective: Objective) -> tuple[float, float, float]:
    """Of seconds, bytes and noise. For latency noise comes before bytes: what makes nothing faster
    is left alone.
    """
    floats = [Choice.FLOAT] * len(prices.layers)
    second = 1 / max(prices.seconds(floats), 1e-30)
    byte = 1 / max(prices.nbytes(floats), 1)
    noise = 1 / max(sum(max(p.noise for p in layer.values()) for layer in prices.layers), 1e-30)
    if objective is Objective.LATENCY:
        return second, _THIRD * byte, _SECOND * noise
    return _SECOND * second, byte, _THIRD * noise


def solved(prices: Prices, limit: float, objective: Objective) -> tuple[Choice, ...]:
    """The best plan whose noise is at most `limit`; all FLOAT, which has none, is one."""
    return _Program(prices, limit).solved(_weights(prices, objective)) if prices.layers else ()


class _Program:
    """Columns are pairs of layer and choice, then pairs of point and form."""

    def __init__(self, prices: Prices, limit: float) -> None:
        self.prices = prices
        pairs = [(n, choice) for n, layer in enumerate(prices.layers) for choice in layer]
        forms = [(n, form) for n, point in enumerate(prices.points) for form in point.seconds]
        self.column = {pair: index for index, pair in enumerate(pairs)}
        self.written = {pair: len(pairs) + index for index, pair in enumerate(forms)}
        noise = [prices.layers[n][choice].noise for n, choice in pairs]
        self.share = [x / limit if limit > 0 else 2.0 * (x > 0) for x in noise]

    def solved(self, weights: tuple[float, float, float]) -> tuple[Choice, ...]:
        """The plan with the least weighted sum of seconds, bytes and noise."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        low = [0.0] * len(self.column)
        low += [float(form in self.prices.points[n].always) for n, form in self.written]
        high = [float(share <= 1) for share in self.share] + [1.0] * len(self.written)
        with no_stray_lines():
            found = milp(
                self._goal(*weights),
                integrality=[1] * len(self.column) + [0] * len(self.written),
                bounds=Bounds(low, high),
                constraints=LinearConstraint(*self._rows()),
                options={"node_limit": NODES, "mip_rel_gap": 1e-6},
            )
        if found.x is None:
            return (Choice.FLOAT,) * len(self.prices.layers)
        return tuple(
            max(layer, key=lambda choice: (round(found.x[self.column[n, choice]]), choice.value))
            for n, layer in enumerate(self.prices.layers)
        )

    def _goal(self, second: float, byte: float, noisy: float) -> NDArray[np.float64]:
        goal = []
        for n, choice in self.column:
            price = self.prices.layers[n][choice]
            goal.append(second * price.seconds + byte * price.nbytes + noisy * price.noise)
        goal += [second * self.prices.points[n].seconds[form] for n, form in self.written]
        return np.array(goal)

    def _rows(self) -> tuple[csr_array, NDArray[np.float64], NDArray[np.float64]]:
        """One choice for each layer; the noise of all; a form that is read is written."""
        from scipy.sparse import lil_array

        layers, links = len(self.prices.layers), self._links()
        table = lil_array((layers + 1 + len(links), len(self.column) + len(self.written)))
        for (n, _), index in self.column.items():
            table[n, index] = 1
        for index, share in enumerate(self.share):
            # More than 1 is ruled out; what is far below the solver's tolerance upsets its scaling.
            table[layers, index] = share if LOST <= share <= 1 else 0.0
        for row, (choices, form) in enumerate(links, layers + 1):
            for index in choices:
                table[row, index] = 1
            table[row, form] = -1
        lower = np.array([1.0] * layers + [-np.inf] * (len(links) + 1))
        upper = np.array([1.0] * (layers + 1) + [0.0] * len(links))
        return table.tocsr(), lower, upper

    def _links(self) -> list[tuple[list[int], int]]:
        """A reader's choices of one form, and the form that they need to be written."""
        links = []
        for (n, form), index in self.written.items():
            for place in self.prices.points[n].readers:
                offered = self.prices.layers[place]
                wanting = [self.column[place, c] for c in offered if c.activations is form]
                if wanting and form not in self.prices.points[n].always:
                    links.append((wanting, index))
        return links
