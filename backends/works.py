"""What of a graph needs a kernel: the unit that is built, tuned and called."""

from __future__ import annotations

from dataclasses import dataclass

from optc.backends.kernel import Job
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Reshape, Task
from optc.passes.fusion.outline import outline
from optc.passes.memory.joins import joins_of


@dataclass(frozen=True, slots=True)
class Work:
    """One node that needs a kernel: its body, the outer values it reads and makes."""

    node: Node
    job: Job
    key: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def works_of(graph: Graph) -> tuple[Work, ...]:
    """The nodes of a graph that need a kernel; reshapes and joins in place need none."""
    results = set(graph.outputs)
    joined = joins_of(graph)
    works: list[Work] = []
    for node in graph.nodes:
        if isinstance(node.op, Reshape) or node in joined:
            continue
        if isinstance(node.op, Task):
            inputs, outputs, body = node.inputs, node.outputs, node.op.body
            constants = frozenset(i for i, v in enumerate(inputs) if v in graph.constants)
        else:
            # Every output is kept, read or not: a kernel writes all that its op makes.
            outlined = outline(graph, (node,), results | set(node.outputs))
            inputs, outputs, body = outlined.inputs, outlined.outputs, outlined.body
            constants = outlined.constants
        job = Job(body, constants)
        works.append(Work(node, job, job.structure, inputs, outputs))
    return tuple(works)
