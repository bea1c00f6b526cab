"""In which order components go, when the weights that are left are fitted to make up for them.

A layer that reads a channel can be fitted anew without it, by least squares; what no fit brings
back is the channel's loss. Channels go one handful after another, each time those that the rest
replaces best (ThiNet, Luo et al. 2017, with the exact update of Optimal Brain Surgeon, Hassibi and
Stork 1993, for whole channels), so that of two alike one stays. Losses are shares of what a layer
puts out, and so compare between layers. The places of a window count as readers of their own, which
fits nothing across them: a bound that needs products of channels alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from optc.ir.constant import to_floats
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module
from optc.ir.ops import Conv, Linear, ew
from optc.passes.base import PassContext
from optc.passes.calibration import Array, Calibration
from optc.passes.prune.coupling import Couplings, Family
from optc.passes.prune.patches import channel_axis

Floats = NDArray[np.float64]
RIDGE = 0.01  # of the mean variance of what a layer reads: no fit is exact on other samples
ROWS = 4  # for each channel
LEAST = 4096  # rows, where there are as many
CALLS = 64
STEPS = 64  # a family goes in so many handfuls
PROBED = 0.25  # of a family
MOST = 1 - 1e-6  # of a layer's energy: the loss of all is finite
WIDEST = 8192  # channels, or features: products of more take too much memory


@dataclass(frozen=True, eq=False)
class _Reader:
    """A layer, its weights as [outputs and places, channels], and the channels' components.

    Losses are shares of `judged`: the layer's output, or the sum that it goes into.
    """

    node: Node
    axis: int  # of the channels that it reads
    held: NDArray[np.int64]
    weight: Floats
    judged: Value


@dataclass
class _Sums:
    """Of rows of a value, over its last axis."""

    products: Floats
    first: Floats
    rows: int = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """More rows, [rows, channels]."""
        self.products += rows.T @ rows
        self.first += rows.sum(0, dtype=np.float64)
        self.rows += len(rows)

    def covariance(self, other: _Sums | None = None) -> Floats:
        """About the mean, as biases are fitted too; of two sums together."""
        products, first, rows = self.products, self.first, self.rows
        if other is not None:
            products, first, rows = (
                products + other.products,
                first + other.first,
                rows + other.rows,
            )
        mean = first / max(1, rows)
        found: Floats = products / max(1, rows) - np.outer(mean, mean)
        return found


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the data says: products of what layers read over every other call and those between, and
    the variance of what they put out, summed over channels.
    """

    halves: Mapping[Value, tuple[_Sums, _Sums]]
    variance: Mapping[Value, float]


@dataclass
class _Fit:
    """Weights of a reader, fitted to what is left, and what it takes to fit them again."""

    inverse: Floats
    weight: Floats

    @staticmethod
    def of(covariance: Floats, weight: Floats) -> _Fit:
        """Before anything goes."""
        ridge = RIDGE * float(np.trace(covariance)) / len(covariance) + 1e-12
        inverse = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
        return _Fit(inverse.astype(np.float64, copy=False), weight.copy())

    def losses(self, columns: NDArray[np.int64]) -> Floats:
        """The squares that each row of columns would cost, the others fitted."""
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        parts = self.weight[:, columns].transpose(1, 0, 2)  # [rows, outputs, columns]
        found: Floats = (parts @ np.linalg.inv(blocks) * parts).sum((1, 2))
        return found

    def remove(self, columns: NDArray[np.int64]) -> None:
        """Without some columns."""
        gain = np.linalg.solve(self.inverse[np.ix_(columns, columns)], self.inverse[columns])
        self.weight -= self.weight[:, columns] @ gain
        self.inverse -= self.inverse[:, columns] @ gain
        self.inverse[columns, columns] = 1.0  # blocks stay regular; weights there are zero
        self.weight[:, columns] = 0.0


@dataclass(eq=False)
class _State:
    """A reader while components go: `fit` by all calls says which, `half` by every other call what
    is lost on the calls between, as a fit flatters itself where samples are few.
    """

    reader: _Reader
    columns: NDArray[np.int64]  # [components, columns of each]
    weight: Floats  # as few rows as give the same squares
    mean: Floats  # of the columns
    fit: _Fit
    half: _Fit
    halves: tuple[Floats, Floats]  # covariances
    energy: float

    @property
    def lost(self) -> float:
        """Share of the energy of what the reader puts out."""
        off = self.half.weight - self.weight
        return min(float((off @ self.halves[1] * off).sum()) / self.energy, MOST)

    def fitted(self, gone: Sequence[int]) -> tuple[Floats, Floats]:
        """Weights in the layer's shape, and what its bias gains, without some components."""
        whole = self.reader.weight
        fit = _Fit.of(self.halves[0], whole)
        fit.remove(self.columns[gone].reshape(-1))
        outputs, channels, *kernel = self.reader.node.inputs[1].shape
        shift = ((whole - fit.weight) @ self.mean).reshape(outputs, -1).sum(1)
        return np.moveaxis(fit.weight.reshape(outputs, *kernel, channels), -1, 1), shift


@dataclass(frozen=True, eq=False)
class Curve:
    """The components of a family in the order in which they go, and what is lost with each.

    `probe`: when so many are gone, the weights of the layers that read them and what their biases
    gain, fitted by half of the calls.
    """

    order: NDArray[np.int64]
    loss: Floats
    probe: tuple[int, Mapping[Node, tuple[Floats, Floats]]]


def curves(
    module: Module, found: Couplings, ctx: PassContext, asked_by: str
) -> Mapping[int, Curve]:
    """By a family's first component: its curve, where some layer that can be fitted reads it.

    Raises E0134, in the name of `asked_by`, without calibration data.
    """
    calibration = ctx.needed_calibration(asked_by)
    readers = list(_readers(found))
    seen = _look(module, readers, calibration)
    result = {}
    for family in found.families:
        if family.pin is None and len(family.components) > 1:
            states = list(_states(family, readers, seen, len(found.pin_of)))
            if states:
                result[int(family.components[0])] = _eliminated(family, states)
    return result


def _readers(found: Couplings) -> Iterator[_Reader]:
    """Grouped layers are none: their outputs go with their inputs."""
    graph = found.graph
    for node in graph.nodes:
        if not isinstance(node.op, Conv | Linear) or getattr(node.op, "groups", 1) > 1:
            continue
        x, weight = node.inputs[:2]
        if weight not in graph.constants or x in graph.constants or not weight.type.elements:
            continue
        axis = channel_axis(node) if isinstance(node.op, Conv) else x.type.rank - 1
        matrix = to_floats(graph.constants[weight]).astype(np.float64)
        matrix = np.moveaxis(matrix, 1, -1).reshape(-1, matrix.shape[1])
        if weight.type.dtype.is_float and matrix.shape[1] <= WIDEST:
            yield _Reader(node, axis, found.components(x, axis), matrix, _judged(graph, node))


def _judged(graph: Graph, node: Node) -> Value:
    users = graph.users.get(node.output, ())
    if len(users) == 1 and isinstance(users[0].op, ew.Add):
        return users[0].output if users[0].output.type == node.output.type else node.output
    return node.output


def _look(module: Module, readers: Sequence[_Reader], calibration: Calibration) -> _Seen:
    """One walk over the data, places of large maps drawn at random."""
    read = {reader.node.inputs[0]: reader.axis for reader in readers}
    made = {v: channel_axis(r.node) for r in readers for v in (r.node.output, r.judged)}
    halves = {value: (_empty(value, axis), _empty(value, axis)) for value, axis in read.items()}
    moments: dict[Value, list[Floats]] = {value: [] for value in made}
    draw, turn = np.random.default_rng(0), count()
    calls = max(1, min(CALLS, calibration.batches.calls))

    def see(seen: Mapping[Value, Array]) -> None:
        half = next(turn) % 2
        for value, axis in read.items():
            rows = _rows(seen[value], axis)
            size = -(-max(LEAST, ROWS * rows.shape[1]) // calls)
            halves[value][half].add(rows[draw.permutation(len(rows))[:size]].astype(np.float32))
        for value, axis in made.items():
            wide = _rows(seen[value], axis).astype(np.float64)
            moments[value].append(np.stack([wide.mean(0), (wide**2).mean(0)]))

    calibration.visit(module, {*read, *made}, see, CALLS)
    variance = {}
    for value, found in moments.items():
        mean, square = np.mean(found, axis=0) if found else np.zeros((2, 1))
        variance[value] = float((square - mean**2).sum())
    return _Seen(halves, variance)


def _empty(value: Value, axis: int) -> _Sums:
    channels = value.shape[axis]
    return _Sums(np.zeros((channels, channels)), np.zeros(channels))


def _rows(array: Array, axis: int) -> Array:
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def _states(
    family: Family, readers: Sequence[_Reader], seen: _Seen, components: int
) -> Iterator[_State]:
    """The readers of a family; not those that read some components more often than others."""
    place = np.full(components, -1)
    place[family.components] = np.arange(len(family.components))
    for reader in readers:
        at = place[reader.held]
        times = np.bincount(at[at >= 0], minlength=len(family.components))
        if times.min() == 0 or times.min() < times.max():
            continue
        columns = np.argsort(at, kind="stable")[(at < 0).sum() :].reshape(-1, times[0])
        one, other = seen.halves[reader.node.inputs[0]]
        both = one.covariance(other)
        other = other if other.rows else one
        halves = one.covariance(), other.covariance()
        weight = reader.weight
        if weight.shape[0] > weight.shape[1]:
            weight = np.linalg.qr(weight).R.astype(np.float64, copy=False)
        fit, half = (_Fit.of(covariance, weight) for covariance in (both, halves[0]))
        energy = float((weight @ both * weight).sum())
        energy *= seen.variance[reader.judged] / max(seen.variance[reader.node.output], 1e-30)
        mean = one.first / max(1, one.rows)
        yield _State(reader, columns, weight, mean, fit, half, halves, max(energy, 1e-30))


def _eliminated(family: Family, states: Sequence[_State]) -> Curve:
    left = np.arange(len(family.components))
    handful = max(1, len(left) // STEPS)
    order: list[int] = []
    loss, probe = [0.0], None
    while len(left):
        each = np.sum([state.fit.losses(state.columns[left]) / state.energy for state in states], 0)
        going = left[np.argsort(each, kind="stable")[:handful]]
        for state in states:
            columns = state.columns[going].reshape(-1)
            state.fit.remove(columns)
            state.half.remove(columns)
        # Shares of energy that survive multiply, so their logarithms add.
        after = max(loss[-1], -sum(float(np.log1p(-state.lost)) for state in states))
        order += going.tolist()
        loss += np.linspace(loss[-1], after, len(going) + 1)[1:].tolist()
        left = np.setdiff1d(left, going)
        if probe is None and len(order) >= PROBED * len(family.components):
            probe = len(order), {s.reader.node: s.fitted(order) for s in states}
    assert probe is not None
    return Curve(family.components[order], np.array(loss[1:]), probe)
