"""Finding the culprit: which node of a module first leaves its tolerance, in bounded memory.

Two modules that should compute the same are run on the same inputs. Values are paired (the same
object, else the same name, type and source line), and compared in rounds that together keep no more
than a budget of bytes. From an output that is wrong the search goes up through the producers and
stops at values that are right: what is left is the culprit, however much lies below it. A wrong
pairing cannot mislead: a value that is "wrong" while all that follows is right is never reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.backends.reference.trace import trace
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module, Port
from optc.ir.names import value_names
from optc.ir.printer import node_lines
from optc.roughness import TOLERANCE, of_outputs, of_values

Arrays = Mapping[str, NDArray[Any]]
BUDGET = 1 << 30  # bytes of values kept at once


@dataclass(frozen=True, slots=True)
class Gap:
    """How far a value is off: the largest difference as a share of the right value's range."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Within the tolerance. A NaN where there should be none is not."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class Culprit:
    """The first node whose output is wrong, how wrong, and the nodes that may share the blame.

    `suspects` are nodes before it that have no counterpart to be compared with.
    """

    graph: Graph
    node: Node
    gap: Gap
    suspects: tuple[Node, ...] = ()

    @property
    def excerpt(self) -> str:
        """The node and the suspects as text."""
        names = value_names(self.graph)
        lines = [next(node_lines(node, names)) for node in (*self.suspects[-8:], self.node)]
        return "\n".join(lines)


def measure(
    name: str,
    right: NDArray[Any],
    found: NDArray[Any],
    dtype: DType,
    scale: float = 1.0,
    rough: float = 0.0,
) -> Gap:
    """Compare two arrays in the storage of `dtype`; `scale` multiplies the tolerance.

    `rough` is the least tolerance, where half floats were computed with on the way.
    """
    tolerance = max(TOLERANCE.get(dtype, 0.0), rough) * scale
    if right.shape != found.shape:
        return Gap(name, float("inf"), tolerance)
    a, b = _numbers(right, dtype), _numbers(found, dtype)
    if not a.size:
        return Gap(name, 0.0, tolerance)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return Gap(name, float("inf"), tolerance)
    a, b = a[finite], b[finite]
    if not a.size:
        return Gap(name, 0.0, tolerance)
    span = float(a.max() - a.min()) or float(np.abs(a).max()) or 1.0
    return Gap(name, float(np.abs(a - b).max()) / span, tolerance)


def compare_outputs(
    module: Module, right: Arrays, found: Arrays, scale: float = 1.0
) -> tuple[Gap, ...]:
    """One gap for each output of `module`; an output that is missing is infinitely far off."""
    missing, rough = np.empty((0,)), of_outputs(module)

    def gap(port: Port) -> Gap:
        name, dtype = port.name, port.type.dtype
        return measure(name, right[name], found.get(name, missing), dtype, scale, rough[name])

    return tuple(gap(port) for port in module.outputs)


def locate(
    right: Module, other: Module, inputs: Arrays, *, scale: float = 1.0, budget: int = BUDGET
) -> Culprit | None:
    """The first node of `other` whose value leaves its tolerance; None when outputs are right."""
    twins = {b: a for graph in other.graphs for a, b in _pairs(right, graph)}
    gaps: dict[Value, Gap] = {}
    rough = of_values(other)
    for part in _rounds(twins, budget):
        kept: dict[Value, NDArray[Any]] = {}
        wanted = [twins[value] for value in part]
        trace(right, inputs, wanted, kept.__setitem__, leave=False)

        def see(
            value: Value, array: NDArray[Any], kept: Mapping[Value, NDArray[Any]] = kept
        ) -> None:
            dtype, least = value.type.dtype, rough.get(value, 0.0)
            gap = measure(value.hint, kept[twins[value]], array, dtype, scale, least)
            if value not in gaps or gap.error > gaps[value].error:
                gaps[value] = gap

        trace(other, inputs, part, see, leave=False)
    for step in other.flow.runs:
        graph = other.graph_of[step.graph]
        found = _search(graph, gaps)
        if found is not None:
            return found
    return None


def first_bad(
    modules: Sequence[Module], right: Arrays, inputs: Arrays, *, scale: float = 1.0
) -> int | None:
    """Index of the first module whose outputs leave their tolerance; None if the last is right."""

    def good(index: int) -> bool:
        found = trace(modules[index], inputs)
        return all(gap.ok for gap in compare_outputs(modules[index], right, found, scale))

    if not modules or good(len(modules) - 1):
        return None
    low, high = -1, len(modules) - 1  # what is before the first is right, the last is wrong
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return high


def _pairs(right: Module, graph: Graph) -> Iterator[tuple[Value, Value]]:
    """Values of the right module with those of `graph` that should equal them."""
    twin = right.graph_of.get(graph.name)
    if twin is None:
        return
    mine, theirs = _by_key(graph), _by_key(twin)
    same = set(twin.producer)
    for node in graph.nodes:
        for value in node.outputs:
            if value in same:
                yield value, value
            elif mine[_key(value, node)] is value and _key(value, node) in theirs:
                yield theirs[_key(value, node)], value
    made = graph.producer
    for a, b in zip(twin.outputs, graph.outputs, strict=False):
        # Outputs stand for the same result whatever they are called.
        if len(twin.outputs) == len(graph.outputs) and a.type == b.type and a in same and b in made:
            yield a, b


def _key(value: Value, node: Node) -> tuple[str, str, str]:
    return value.hint, str(value.type), str(node.loc)


def _by_key(graph: Graph) -> Mapping[tuple[str, str, str], Value]:
    """The last value of each key: a rewrite gives its result the name of what it replaces."""
    return {_key(value, node): value for node in graph.nodes for value in node.outputs}


def _rounds(twins: Mapping[Value, Value], budget: int) -> Iterator[list[Value]]:
    part: list[Value] = []
    size = 0
    for value, twin in twins.items():
        if part and size + twin.type.nbytes > budget:
            yield part
            part, size = [], 0
        part.append(value)
        size += twin.type.nbytes
    if part:
        yield part


def _search(graph: Graph, gaps: Mapping[Value, Gap]) -> Culprit | None:
    wrong = [value for value in graph.outputs if value in gaps and not gaps[value].ok]
    region: set[Node] = set()
    queue = list(wrong)
    while queue:
        value = queue.pop()
        node = graph.producer.get(value)
        if node is None or node in region or (value in gaps and gaps[value].ok):
            continue
        region.add(node)
        queue += node.inputs
    for index, node in enumerate(graph.nodes):
        bad = next(
            (v for v in node.outputs if node in region and v in gaps and not gaps[v].ok), None
        )
        if bad is not None:
            before = tuple(n for n in graph.nodes[:index] if n in region)
            return Culprit(graph, node, gaps[bad], before)
    return None


def _numbers(array: NDArray[Any], dtype: DType) -> NDArray[Any]:
    if dtype is DType.BF16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)
