"""The bytes that live while the nodes of a graph run, as a function of their order.

A buffer is what a kernel writes: reshapes of it and the parts that are computed in it belong to it.
It lives from the first node that touches it to the last. The caller's inputs and outputs and the
weights lie elsewhere and cost nothing here, and neither does scratch memory, which is known once
kernels are built.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Reshape
from optc.passes.memory.joins import aliases, origin, roots_of

ALIGNMENT = 64  # bytes: what the arena's offsets are multiples of


@dataclass(frozen=True, slots=True)
class Footprint:
    """Steps by number: which must come first, and which buffers each touches.

    `before` and `touched` are by step; `sizes` (bytes) and `touching` (steps, as bits) by buffer.
    Buffers in `kept` live to the end.
    """

    nodes: tuple[Node, ...]
    before: tuple[int, ...]  # bits of the steps whose results a step reads
    touched: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    touching: tuple[int, ...]
    kept: frozenset[int] = frozenset()

    def peak(self, order: Sequence[int]) -> int:
        """The most bytes alive at one step of `order`."""
        done = live = most = 0
        for step in order:
            started = live + self.started(step, done)
            most = max(most, started)
            live = started - self.ended(step, done)
            done |= 1 << step
        return most

    def started(self, step: int, done: int) -> int:
        """Bytes of the buffers that `step` touches first, after the steps `done`."""
        return sum(self.sizes[b] for b in self.touched[step] if not self.touching[b] & done)

    def ended(self, step: int, done: int) -> int:
        """Bytes of the buffers that nobody touches after `step`."""
        after = done | 1 << step
        return sum(
            self.sizes[b]
            for b in self.touched[step]
            if b not in self.kept and not self.touching[b] & ~after
        )


@dataclass(slots=True)
class _Buffers:
    """Buffers by the value that names them; what is none of ours has no number."""

    sizes: list[int] = field(default_factory=list)
    touching: list[int] = field(default_factory=list)
    number: dict[Value, int] = field(default_factory=dict)

    def add(self, value: Value) -> None:
        """A new buffer."""
        self.number[value] = len(self.sizes)
        self.sizes.append(-(-value.type.nbytes // ALIGNMENT) * ALIGNMENT)
        self.touching.append(0)


def footprint(graph: Graph, *, outputs_outside: bool = True) -> Footprint:
    """The footprint of a graph whose nodes are kernels and reshapes.

    `outputs_outside`: the graph's outputs go to the caller's memory; else they are kept here.
    """
    alias, root = aliases(graph), roots_of(graph)
    nodes = tuple(node for node in graph.nodes if not isinstance(node.op, Reshape))
    results = {root(value) for value in graph.outputs}
    buffers = _Buffers()
    for value in dict.fromkeys(root(v) for node in nodes for v in node.outputs):
        if not (outputs_outside and value in results):
            buffers.add(value)
    maker = {value: step for step, node in enumerate(nodes) for value in node.outputs}
    before, touched = [], []
    for step, node in enumerate(nodes):
        origins = [origin(value, alias) for value in node.inputs]
        before.append(_bits(maker[value] for value in origins if value in maker))
        roots = dict.fromkeys(map(root, (*node.inputs, *node.outputs)))
        numbers = tuple(buffers.number[value] for value in roots if value in buffers.number)
        touched.append(numbers)
        for number in numbers:
            buffers.touching[number] |= 1 << step
    kept = frozenset(buffers.number[value] for value in results if value in buffers.number)
    sizes, touching = tuple(buffers.sizes), tuple(buffers.touching)
    return Footprint(nodes, tuple(before), tuple(touched), sizes, touching, kept)


def _bits(steps: Iterable[int]) -> int:
    bits = 0
    for step in steps:
        bits |= 1 << step
    return bits
