"""The verifier: returns what is wrong with a module, and runs after every pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from optc.ir.diagnostics import NOWHERE, Diagnostic, Loc
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import ExitIf, Module, Run
from optc.ir.names import value_names
from optc.ir.ops.base import OpError
from optc.ir.ops.task import Task
from optc.ir.printer import node_lines
from optc.ir.structure import leaves
from optc.ir.types import TensorType

CONTEXT = 3  # nodes shown on either side of the culprit


def verify(module: Module) -> tuple[Diagnostic, ...]:
    """All findings; empty when the module is well formed."""
    findings = [*_duplicates(module), *_flow(module), *_returns(module)]
    for graph in module.graphs:
        findings += verify_graph(graph)
    return tuple(findings)


def verify_graph(graph: Graph) -> Iterator[Diagnostic]:
    """Definitions before uses, each value defined once, types as the ops infer them."""
    defined: set[Value] = set()
    for value in (*graph.inputs, *graph.constants):
        if value in defined:
            yield _finding("E0120", f"value %{value.hint} is defined twice in @{graph.name}")
        defined.add(value)
    for value, item in graph.constants.items():
        if value.type != item.type:
            yield _finding("E0121", f"constant %{value.hint} is {item.type}, declared {value.type}")
    for index, node in enumerate(graph.nodes):
        yield from _node(graph, index, node, defined)
        defined.update(node.outputs)
    for value in graph.outputs:
        if value not in defined:
            yield _finding("E0122", f"@{graph.name} returns %{value.hint}, which nothing defines")


def _node(graph: Graph, index: int, node: Node, defined: set[Value]) -> Iterator[Diagnostic]:
    def at(code: str, message: str) -> Diagnostic:
        return _finding(code, message, node.loc, _excerpt(graph, index))

    for value in (v for v in node.inputs if v not in defined):
        yield at("E0122", f"{node.op.name} reads %{value.hint} before it is defined")
    for value in (v for v in node.outputs if v in defined):
        yield at("E0120", f"value %{value.hint} is defined twice in @{graph.name}")
    try:
        types = node.op.infer(*(value.type for value in node.inputs))
    except OpError as problem:
        yield at("E0123", str(problem))
        return
    found = tuple(value.type for value in node.outputs)
    if types != found:
        yield at("E0123", f"{node.op.name} gives {_text(types)}, its outputs say {_text(found)}")
    if isinstance(node.op, Task):
        yield from verify_graph(node.op.body)


def _duplicates(module: Module) -> Iterator[Diagnostic]:
    graphs = [graph.name for graph in module.graphs]
    ports = [port.name for port in module.inputs] + [state.name for state in module.states]
    for names, what in ((graphs, "graph"), (ports, "input or state")):
        for name in {name for name in names if names.count(name) > 1}:
            yield _finding("E0124", f"two {what}s are called {name}")


def _flow(module: Module) -> Iterator[Diagnostic]:
    known: dict[str, TensorType] = {port.name: port.type for port in module.inputs}
    known |= {state.name: state.type for state in module.states}
    for step in module.flow.steps:
        match step:
            case Run():
                yield from _run(module, step, known)
            case ExitIf():
                yield from _exit(module, step, known)
    yield from _end(module, {port.name: port.name for port in module.outputs}, known, "the flow")


def _run(module: Module, step: Run, known: dict[str, TensorType]) -> Iterator[Diagnostic]:
    graph = module.graph_of.get(step.graph)
    if graph is None:
        yield _finding("E0125", f"the flow runs @{step.graph}, which does not exist")
        return
    yield from _arguments(step.graph, step.inputs, graph.inputs, known)
    if len(step.outputs) != len(graph.outputs):
        message = f"@{graph.name} has {len(graph.outputs)} outputs, not {len(step.outputs)}"
        yield _finding("E0125", message)
    known |= {n: v.type for n, v in zip(step.outputs, graph.outputs, strict=False)}


def _exit(module: Module, step: ExitIf, known: dict[str, TensorType]) -> Iterator[Diagnostic]:
    found = known.get(step.condition, "not defined")
    if found != TensorType((), DType.BOOL):
        yield _finding("E0125", f"exit_if takes one bool, {step.condition} is {found}")
    where = f"exit {step.condition}"
    if len(step.results) != len(module.outputs):
        message = f"{where} returns {len(step.results)} of {len(module.outputs)} outputs"
        yield _finding("E0125", message)
        return
    pairs = zip(module.outputs, step.results, strict=True)
    yield from _end(module, {port.name: result for port, result in pairs}, known, where)


def _end(
    module: Module, given: dict[str, str], known: dict[str, TensorType], where: str
) -> Iterator[Diagnostic]:
    """Where a call may end: `given` are the variables that become outputs."""
    wanted = [(port.name, given[port.name], port.type) for port in module.outputs]
    wanted += [(state.name, state.name, state.type) for state in module.states]
    for name, variable, type in wanted:
        if known.get(variable) != type:
            found = known.get(variable, "nothing")
            yield _finding("E0125", f"{name} is {type}, {where} gives {found}")


def _returns(module: Module) -> Iterator[Diagnostic]:
    if module.returns is None:
        return
    found, wanted = list(leaves(module.returns)), [port.name for port in module.outputs]
    for name in (name for name in wanted if found.count(name) != 1):
        yield _finding("E0126", f"output {name} is returned {found.count(name)} times, not once")
    for name in sorted(set(found) - set(wanted)):
        yield _finding("E0126", f"what is returned names {name}, which is no output")


def _arguments(
    name: str, given: tuple[str, ...], wanted: tuple[Value, ...], known: dict[str, TensorType]
) -> Iterator[Diagnostic]:
    if len(given) != len(wanted):
        yield _finding("E0125", f"@{name} takes {len(wanted)} inputs, not {len(given)}")
    for variable, value in zip(given, wanted, strict=False):
        if known.get(variable) != value.type:
            found = known.get(variable, "not defined")
            yield _finding("E0125", f"@{name} takes {value.type}, {variable} is {found}")


def _excerpt(graph: Graph, index: int) -> str:
    names = value_names(graph)
    first = max(0, index - CONTEXT)
    lines = []
    for place, node in enumerate(graph.nodes[first : index + CONTEXT + 1], first):
        missing = {value: names.get(value, f"?{value.hint}") for value in node.inputs}
        text = next(node_lines(node, {**names, **missing}))
        lines.append(("> " if place == index else "  ") + text)
    return "\n".join(lines)


def _finding(code: str, message: str, loc: Loc = NOWHERE, excerpt: str = "") -> Diagnostic:
    return Diagnostic(code, message, loc=loc, excerpt=excerpt)


def _text(types: Iterable[TensorType]) -> str:
    return ", ".join(map(str, types))
