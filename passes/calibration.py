"""What a pass may learn from the user's data: statistics, scores of weights, features.

Passes see arrays only. The implementation streams the calibration part through the reference
meaning in bounded memory and remembers its answers by module, data and question.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from optc.ir.constant import Constant
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module

Array = NDArray[Any]
BINS = 8192  # of a histogram: a percentile is right to 1/2048 of the largest magnitude or better


def spread_calls(total: int, calls: int) -> tuple[int, ...]:
    """Numbers of at most `calls` of `total` calls, evenly, as data is often sorted; 0: all."""
    places = np.linspace(0, total - 1, min(calls or total, total)).round().astype(int)
    return tuple(places.tolist())


@dataclass(frozen=True, slots=True)
class Batch:
    """One call's worth of samples, in the storage of the ports' dtypes.

    The last batch of a part is filled up with the part's first samples; `valid` counts those that
    are not filling. `labels` are filled alike. `size` is the batch axis of the inputs; None where a
    call is one sample and has no such axis.
    """

    inputs: Mapping[str, Array]
    valid: int
    size: int | None
    labels: Array | None = None


class Batches(Protocol):
    """One part of the data, in calls of the model's batch size; may be walked again and again."""

    @property
    def digest(self) -> str:
        """Names the samples: equal digests mean equal batches."""

    @property
    def samples(self) -> int:
        """How many samples the part has."""

    @property
    def calls(self) -> int:
        """How many batches the part has."""

    @property
    def labelled(self) -> bool:
        """Whether its batches have labels."""

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True, slots=True)
class Statistics:
    """What one value, or each channel of it, was over all calibration samples.

    Arrays of numbers have one entry, or one per channel, and count finite elements only. `second`
    is the mean of squares. `counts` is the histogram of the whole value over `BINS` equal bins of
    [-reach, reach].
    """

    least: NDArray[np.float64]
    most: NDArray[np.float64]
    mean: NDArray[np.float64]
    second: NDArray[np.float64]
    elements: NDArray[np.int64]  # that each entry was made from
    counts: NDArray[np.int64]
    reach: float

    @property
    def variance(self) -> NDArray[np.float64]:
        """Mean square of the distance from the mean."""
        return np.maximum(self.second - self.mean**2, 0.0)

    def percentile(self, percent: float) -> float:
        """The value that `percent` % of all elements do not exceed, to the width of a bin."""
        total = np.cumsum(self.counts)
        place = int(np.searchsorted(total, percent / 100 * total[-1], side="left"))
        edge = -self.reach + (min(place, BINS - 1) + 1) * 2 * self.reach / BINS
        return float(np.clip(edge, self.least.min(), self.most.max()))


class Importance(Enum):
    """How a gradient g and a weight w become a score per weight; Molchanov et al. 2019."""

    FIRST = "abs(g*w)"
    SQUARE = "(g*w)**2"


class Walk(Protocol):
    """The only graph of a module, run node by node over some calls of the calibration part.

    A value is there from its node to its last reader, those of `keep` until they are dropped.
    """

    @property
    def graph(self) -> Graph:
        """The graph as it is now; the same object when nothing was replaced."""

    def until(self, value: Value) -> None:
        """Run nodes in order until `value` is there."""

    def has(self, value: Value) -> bool:
        """Whether it was computed and is still there."""

    def at(self, value: Value) -> Iterator[Array]:
        """The value of each call, in the storage of its dtype."""

    def drop(self, value: Value) -> None:
        """Let go of a value of `keep`."""

    def results(self, node: Node) -> Iterator[Array]:
        """What a node whose inputs are there computes in each call; the walk does not go on."""

    def replace(self, node: Node, new: Node, constants: Mapping[Value, Constant]) -> None:
        """Put another node, with new constants, in the place of one that has not run yet."""

    def fork(self) -> Walk:
        """A walk from here on that goes its own way; what there is is shared, not copied."""


class Calibration(Protocol):
    """Answers about a module on the calibration part. Values are those of the module's graphs."""

    @property
    def digest(self) -> str:
        """Names the data."""

    @property
    def batches(self) -> Batches:
        """The calibration part itself."""

    def visit(
        self,
        module: Module,
        values: Collection[Value],
        see: Callable[[Mapping[Value, Array]], None],
        calls: int = 0,
    ) -> None:
        """Show the chosen values of every call, in order; nothing is kept between calls.

        `calls` are at most so many, spread over the part (0: all).
        """

    def walk(
        self, module: Module, keep: Collection[Value] = (), calls: int | Collection[int] = 0
    ) -> Walk | None:
        """A walk over at most `calls` calls, spread over the part (0: all), or over those numbers.

        None where the module is more than one graph that runs once.
        """

    def statistics(
        self, module: Module, values: Collection[Value], channel: Mapping[Value, int] | None = None
    ) -> Mapping[Value, Statistics]:
        """Statistics of values; per channel along an axis for those in `channel`."""

    def importance(
        self, module: Module, constants: Collection[Value], kind: Importance = Importance.FIRST
    ) -> Mapping[Value, NDArray[np.float32]]:
        """The mean score over calls of every element of float constants, in their shapes.

        The gradient is that of the loss on labels where there are any, else of one that needs none.
        """

    def joint_importance(
        self, module: Module, sets: Mapping[tuple[Value, int], NDArray[np.int64]]
    ) -> NDArray[np.float64]:
        """The mean over calls of `(sum of g*w)**2` of every set of slices of float constants.

        `sets` gives the number of a set, from 0 on, for each position of an axis of a constant; the
        answer has an entry per number up to the largest. An element that lies in a set by two of
        its axes counts by both. Molchanov et al. 2019, section 3.1; the gradient is as above.
        """

    def features(
        self, module: Module, values: Collection[Value], calls: int | None = None
    ) -> Mapping[Value, Array]:
        """Values of the first `calls` calls, one behind the other: shape (calls, *value.shape).

        bf16 comes as f32. The arrays are mapped from disk, may be larger than memory, and are there
        as long as this object is.
        """

    def labels(self, calls: int | None = None) -> Array | None:
        """The labels beside `features`: shape (calls, batch, ...), filled as the batches are."""
