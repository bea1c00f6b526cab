"""Cutting a graph into stages with exits between them: a module whose flow can end early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optc.ir.builder import Builder
from optc.ir.constant import splat
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import ExitIf, Flow, Module, Run, State, Step
from optc.ir.names import value_names
from optc.ir.types import TensorType
from optc.passes.early_exit.chain import cone
from optc.passes.early_exit.decision import Decision, add_decision

THRESHOLD = TensorType((), DType.F32)


@dataclass(frozen=True, slots=True)
class Exit:
    """An exit: the class scores that decide, what becomes of the outputs, and when.

    `results` are values of the graph, one for each output of the module.
    """

    name: str
    logits: Value
    results: tuple[Value, ...]
    decision: Decision
    temperature: float
    threshold: float


def staged(
    module: Module, graph: Graph, exits: Sequence[Exit], returned: Mapping[str, Value]
) -> Module:
    """The module whose only graph is cut at `exits`.

    `graph` is the module's graph with the exits' heads added; `returned` are the values that the
    end returns, by name of the output. Other outputs are dropped. States must only be read.
    """
    ports = tuple(port for port in module.outputs if port.name in returned)
    cut = _Cut(module, graph, exits, {port.name: returned[port.name] for port in ports})
    kept = ports == module.outputs
    states = tuple(State(f"{e.name}.threshold", splat(e.threshold, THRESHOLD)) for e in exits)
    return replace(
        module,
        outputs=ports,
        states=(*module.states, *states),
        graphs=cut.graphs,
        flow=Flow(cut.steps),
        returns=module.returns if kept else None,
    )


class _Cut:
    """Walks the stages, and names what crosses from one to the next."""

    def __init__(
        self, module: Module, graph: Graph, exits: Sequence[Exit], returned: Mapping[str, Value]
    ) -> None:
        (run,) = module.flow.runs
        self.graph, self.exits, self.returned = graph, exits, returned
        self.names: dict[Value, str] = dict(zip(graph.inputs, run.inputs, strict=True))
        self.taken = {port.name for port in (*module.inputs, *module.outputs)}
        self.taken |= {state.name for state in module.states}
        self.taken |= {name for e in exits for name in (e.name, f"{e.name}.threshold")}
        self.hints = value_names(graph)
        stages = self._stages()
        results = [self._stage(index, stages) for index in range(len(stages))]
        self.graphs = tuple(graph for graph, _ in results)
        self.steps = tuple(step for _, steps in results for step in steps)

    def _stages(self) -> list[list[Node]]:
        """The nodes of each stage: those that its exit needs and no earlier one did."""
        ends = [(e.logits, *e.results) for e in self.exits] + [tuple(self.returned.values())]
        seen: set[Node] = set()
        stages: list[list[Node]] = []
        for values in ends:
            needed = cone(self.graph, values) - seen
            stages.append([node for node in self.graph.nodes if node in needed])
            seen |= needed
        return stages

    def _stage(self, index: int, stages: Sequence[Sequence[Node]]) -> tuple[Graph, list[Step]]:
        exit = self.exits[index] if index < len(self.exits) else None
        given = self._crossing(index, stages) if exit else list(self.returned.values())
        builder, known, arguments = self._begun(index, stages[index], given, exit)
        for node in stages[index]:
            inputs = tuple(known.get(value, value) for value in node.inputs)
            builder.append(node if inputs == node.inputs else replace(node, inputs=inputs))
        outputs = [known.get(value, value) for value in given]
        if exit is None:
            run = Run(builder.name, tuple(arguments), tuple(self.returned))
            return builder.build(outputs), [run]
        names = [self._named(value) for value in given]
        threshold = builder.input(THRESHOLD, "threshold")
        logits = known.get(exit.logits, exit.logits)
        sure = add_decision(builder, exit.decision, logits, threshold, exit.temperature)
        arguments.append(f"{exit.name}.threshold")
        run = Run(builder.name, tuple(arguments), (*names, exit.name))
        leave = ExitIf(exit.name, tuple(self.names[value] for value in exit.results))
        return builder.build([*outputs, sure]), [run, leave]

    def _crossing(self, index: int, stages: Sequence[Sequence[Node]]) -> list[Value]:
        """What a stage makes and others read, and the constants that its exit returns."""
        read = {value for later in stages[index + 1 :] for node in later for value in node.inputs}
        read.update(value for e in self.exits[index:] for value in e.results)
        read.update(self.returned.values())
        made = [value for node in stages[index] for value in node.outputs if value in read]
        results = dict.fromkeys(self.exits[index].results)
        return [*made, *(v for v in results if v in self.graph.constants and v not in self.names)]

    def _begun(
        self, index: int, nodes: Sequence[Node], given: Sequence[Value], exit: Exit | None
    ) -> tuple[Builder, dict[Value, Value], list[str]]:
        """A builder with the inputs and constants of a stage."""
        builder = Builder(f"stage_{index}")
        known: dict[Value, Value] = {}
        arguments: list[str] = []
        read = [*(value for node in nodes for value in node.inputs), *given]
        for value in dict.fromkeys([*read, exit.logits] if exit else read):
            if value in self.graph.constants:
                known[value] = builder.constant(self.graph.constants[value], value.hint)
            elif value in self.names:
                known[value] = builder.input(value.type, value.hint)
                arguments.append(self.names[value])
        return builder, known, arguments

    def _named(self, value: Value) -> str:
        """A name of its own for what crosses."""
        name, count = self.hints[value], 0
        while name in self.taken:
            count += 1
            name = f"{self.hints[value]}_{count}"
        self.taken.add(name)
        self.names[value] = name
        return name
