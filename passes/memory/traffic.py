"""A graph as steps that move bytes: what a placement in tiers is planned and judged on.

Two tiers: a fast one of some capacity, and a slow one that holds everything else. Times are
estimates: a step takes as long as its operations or its bytes do, whichever is longer (the roofline
of Williams et al. 2009), where bytes in the fast tier move at its speed and the others at the slow
one's. Rates that a target does not give are nominal, and only ratios of times mean anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from optc.ir.cost import cost, reads
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Reshape
from optc.ir.targets.target import MemorySpace, Target
from optc.passes.memory.joins import joins_of, roots_of

CLOCK = 2.5e9  # nominal cycles per second
# Nominal bytes per second and seconds of latency of a space that says nothing of itself.
NOMINAL: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "l1": (200e9, 2e-9),
        "l2": (80e9, 6e-9),
        "l3": (40e9, 20e-9),
        "dram": (12e9, 100e-9),
        "file": (1e9, 1e-4),
        "shared": (10e12, 30e-9),
        "global": (1.5e12, 500e-9),
        "host": (25e9, 1e-5),
    }
)


@dataclass(frozen=True, slots=True)
class Tier:
    """A memory: bytes, bytes per second, and seconds before the first byte of a copy."""

    name: str
    size: int
    bandwidth: float
    latency: float


@dataclass(frozen=True, slots=True)
class Machine:
    """A fast tier before a slow one, and operations per second."""

    fast: Tier
    slow: Tier
    flops: float

    def copy_seconds(self, nbytes: int) -> float:
        """One copy between the tiers, alone on the channel."""
        rate = min(self.fast.bandwidth, self.slow.bandwidth)
        return max(self.fast.latency, self.slow.latency) + nbytes / rate


@dataclass(frozen=True, slots=True)
class Buffer:
    """Bytes that steps use; `made` is the step that writes them first, None for what is given.

    `moved` is by step what it reads and writes of them. A `fixed` one stays in the slow tier: the
    caller holds it, or several steps write parts of it.
    """

    name: str
    nbytes: int
    made: int | None
    moved: Mapping[int, int]
    fixed: bool = False

    @property
    def uses(self) -> tuple[int, ...]:
        """The steps that touch it, in order."""
        return tuple(sorted(self.moved))


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps by their operations, and the buffers they use."""

    names: tuple[str, ...]
    flops: tuple[int, ...]
    buffers: tuple[Buffer, ...]

    def seconds(self, machine: Machine, step: int, fast: frozenset[int]) -> float:
        """The time of a step whose buffers `fast` (by number) are in the fast tier."""
        near = far = 0
        for number, buffer in enumerate(self.buffers):
            moved = buffer.moved.get(step, 0)
            near, far = (near + moved, far) if number in fast else (near, far + moved)
        moving = near / machine.fast.bandwidth + far / machine.slow.bandwidth
        return max(self.flops[step] / machine.flops, moving)

    def largest_live(self) -> int:
        """The most bytes that steps have in use at once, weights while they are read."""
        live = [0] * (len(self.flops) + 1)
        for buffer in self.buffers:
            if not buffer.moved:
                continue
            first = buffer.uses[0] if buffer.made is None else buffer.made
            for step in (
                range(first, buffer.uses[-1] + 1) if buffer.made is not None else buffer.uses
            ):
                live[step] += buffer.nbytes
        return max(live, default=0)


def machine_of(target: Target, fast: str, slow: str, capacity: int = 0) -> Machine:
    """The target with two of its spaces; `capacity` 0 takes the fast one's size.

    Raises KeyError for a space that neither the target nor the nominal table knows.
    """
    rate = 2 * 2 * target.cores * target.vector_bits / 32 * CLOCK
    spaces = {space.name: space for space in target.memory}

    def tier(name: str, size: int) -> Tier:
        bandwidth, latency = NOMINAL[name]
        space = spaces.get(name, MemorySpace(name, 0))
        rates = space.bandwidth or bandwidth, space.latency or latency
        return Tier(name, size or space.size, *rates)

    return Machine(tier(fast, capacity), tier(slow, 1 << 62), rate)


def schedule_of(graph: Graph) -> Schedule:
    """The steps of a graph whose nodes are kernels; reshapes and joins in place are none."""
    root, joins = roots_of(graph), joins_of(graph)
    nodes = [node for node in graph.nodes if not isinstance(node.op, Reshape) and node not in joins]
    moved: dict[Value, dict[int, int]] = {}
    made: dict[Value, int] = {}
    writers: dict[Value, int] = {}
    for step, node in enumerate(nodes):
        for value, count in (*_reads(node), *((v, v.type.nbytes) for v in node.outputs)):
            steps = moved.setdefault(root(value), {})
            steps[step] = steps.get(step, 0) + count
        for value in node.outputs:
            made.setdefault(root(value), step)
            writers[root(value)] = writers.get(root(value), 0) + 1
    held = {root(value) for value in (*graph.inputs, *graph.outputs)}
    held |= {value for value, count in writers.items() if count > 1}
    buffers = tuple(
        Buffer(_name(value, graph), value.type.nbytes, made.get(value), steps, value in held)
        for value, steps in moved.items()
    )
    flops = tuple(cost(node).flops for node in nodes)
    return Schedule(tuple(node.outputs[0].hint for node in nodes), flops, buffers)


def _reads(node: Node) -> list[tuple[Value, int]]:
    return list(zip(node.inputs, reads(node), strict=True))


def _name(value: Value, graph: Graph) -> str:
    node = graph.producer.get(value)
    kind = "weight" if value in graph.constants else "value" if node else "input"
    place = f" @ {node.loc}" if node is not None and node.loc else ""
    return f"{kind} %{value.hint} {value.type}{place}"
