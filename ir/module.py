"""Module: straight-line graphs plus the Flow that says how control passes between them.

Every data-dependent decision lives in the Flow, so that passes, planners and backends only ever
see straight-line graphs. Flow steps read and write named variables: the module's inputs, outputs,
states, and locals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from optc.ir.constant import Constant
from optc.ir.graph import Graph
from optc.ir.structure import Structure
from optc.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Port:
    """A named input or output; nested structures are flattened to dotted names (`cache.0.key`)."""

    name: str
    type: TensorType


@dataclass(frozen=True, eq=False, slots=True)
class State:
    """A buffer that the model updates and keeps from call to call, and its first content."""

    name: str
    initial: Constant

    @property
    def type(self) -> TensorType:
        """Type of the buffer."""
        return self.initial.type


@dataclass(frozen=True, slots=True)
class Run:
    """Run a graph: `outputs = run @graph(inputs)`, all names of variables."""

    graph: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExitIf:
    """Where the bool scalar `condition` is true the call ends here: `exit_if taken return early`.

    `results` become the module's outputs, in their order. States keep what the steps before gave
    them. An exit is called by its condition's name.
    """

    condition: str
    results: tuple[str, ...]


Step = Run | ExitIf  # `switch` joins here; every reader of a Flow matches on the step's class


@dataclass(frozen=True, slots=True)
class Flow:
    """The steps of one call, in order. A state that a step writes keeps its value for the next.

    A state that no step writes is a parameter: a number that users set between calls.
    """

    steps: tuple[Step, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """The steps that run a graph."""
        return tuple(step for step in self.steps if isinstance(step, Run))

    @property
    def exits(self) -> tuple[ExitIf, ...]:
        """The steps that may end a call early."""
        return tuple(step for step in self.steps if isinstance(step, ExitIf))

    @property
    def written(self) -> frozenset[str]:
        """The variables that steps write."""
        return frozenset(name for step in self.runs for name in step.outputs)


@dataclass(frozen=True, eq=False)
class Module:
    """A whole model: what it takes, what it gives, what it remembers, and how it computes.

    `returns` nests the outputs as the model does, each of them once; without it a caller gets the
    only output, or a tuple.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[State, ...]
    graphs: tuple[Graph, ...]
    flow: Flow
    returns: Structure = None

    @cached_property
    def graph_of(self) -> Mapping[str, Graph]:
        """Graphs by name."""
        return {graph.name: graph for graph in self.graphs}

    @property
    def parameters(self) -> tuple[State, ...]:
        """The states that calls read and never write."""
        return tuple(state for state in self.states if state.name not in self.flow.written)

    def with_graphs(self, graphs: tuple[Graph, ...]) -> Module:
        """The module with its graphs replaced; the same object when none of them changed."""
        same = len(graphs) == len(self.graphs)
        if same and all(new is old for new, old in zip(graphs, self.graphs, strict=True)):
            return self
        return replace(self, graphs=graphs)


def module_of(graph: Graph) -> Module:
    """The module that runs one graph and whose ports are named after the graph's values."""
    from optc.ir.names import value_names

    names = value_names(graph)
    outputs = _distinct(
        tuple(names[value] for value in graph.outputs), {names[v] for v in graph.inputs}
    )
    inputs = tuple(Port(names[value], value.type) for value in graph.inputs)
    ports = tuple(
        Port(name, value.type) for name, value in zip(outputs, graph.outputs, strict=True)
    )
    run = Run(graph.name, tuple(port.name for port in inputs), outputs)
    return Module(graph.name, inputs, ports, (), (graph,), Flow((run,)))


def _distinct(names: tuple[str, ...], taken: set[str]) -> tuple[str, ...]:
    result: list[str] = []
    for name in names:
        candidate, count = name, 0
        while candidate in taken:
            count += 1
            candidate = f"{name}_{count}"
        taken.add(candidate)
        result.append(candidate)
    return tuple(result)
