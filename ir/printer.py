"""Text form, out: a module as text that `ir.parser` reads back exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from enum import Enum

from optc.ir.constant import Absent, Constant, Seed, Splat, to_floats
from optc.ir.dtype import DType
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import ExitIf, Module, Run, Step
from optc.ir.names import value_names
from optc.ir.ops.base import Op
from optc.ir.structure import Items, Nesting, Structure

INLINE_ELEMENTS = 8  # constants up to this size are written out; larger ones are named by digest


def print_module(module: Module) -> str:
    """The module's text, ending in a newline."""
    lines = [f"module @{module.name} {{"]
    lines += [f"  input {port.name} : {port.type}" for port in module.inputs]
    lines += [f"  output {port.name} : {port.type}" for port in module.outputs]
    lines += [
        f"  state {state.name} = {_attributes(constant_fields(state.initial))} : {state.type}"
        for state in module.states
    ]
    if module.returns is not None:
        lines.append(f"  returns {_structure(module.returns)}")
    lines += ["  flow {", *(f"    {_step(step)}" for step in module.flow.steps), "  }"]
    for graph in module.graphs:
        lines += [f"  {line}" for line in graph_lines(graph)]
    return "\n".join([*lines, "}"]) + "\n"


def print_graph(graph: Graph) -> str:
    """One graph's text, ending in a newline."""
    return "\n".join(graph_lines(graph)) + "\n"


def graph_lines(graph: Graph) -> Iterator[str]:
    """The lines of a graph, unindented."""
    names = value_names(graph)
    inputs = ", ".join(f"%{names[value]}: {value.type}" for value in graph.inputs)
    yield f"graph @{graph.name}({inputs}) {{"
    for value, item in graph.constants.items():
        fields = _attributes(constant_fields(item))
        yield f"  %{names[value]} = constant {fields} : {value.type}"
    for node in graph.nodes:
        yield from (f"  {line}" for line in node_lines(node, names))
    yield f"  return {', '.join('%' + names[value] for value in graph.outputs)}".rstrip()
    yield "}"


def node_lines(node: Node, names: Mapping[Value, str]) -> Iterator[str]:
    """The lines of one node: a single one unless its op holds a graph."""
    fields, body = op_fields(node.op)
    outputs = ", ".join(f"%{names[value]}" for value in node.outputs)
    inputs = ", ".join(f"%{names[value]}" for value in node.inputs)
    types = ", ".join(str(value.type) for value in node.outputs)
    types = types if len(node.outputs) == 1 else f"({types})"
    attributes = f" {_attributes(fields)}" if fields else ""
    head = f"{outputs} = {node.op.name}({inputs}){attributes} : {types}"
    place = _loc(node)
    if body is None:
        yield head + place
        return
    yield head + place + " {"
    yield from (f"  {line}" for line in graph_lines(body))
    yield "}"


def op_fields(op: Op) -> tuple[dict[str, object], Graph | None]:
    """Attributes that differ from their defaults, and the graph that a task holds."""
    fields: dict[str, object] = {}
    body: Graph | None = None
    for field in dataclasses.fields(op):
        value = getattr(op, field.name)
        if isinstance(value, Graph):
            body = value
        elif field.default is dataclasses.MISSING or value != field.default:
            fields[field.name] = value
    return fields, body


def constant_fields(item: Constant) -> dict[str, object]:
    """How a constant's content is spelled: splat, seed, values or digest."""
    match item.source:
        case Splat(value):
            return {"splat": _number(value, item.type.dtype)}
        case Seed(seed):
            return {"seed": seed}
        case Absent(digest):
            return {"digest": digest}
        case _ if item.type.elements <= INLINE_ELEMENTS:
            numbers = to_floats(item).reshape(-1)
            return {"values": tuple(_number(x, item.type.dtype) for x in numbers.tolist())}
        case _:
            return {"digest": item.digest}


def literal(value: object) -> str:
    """One attribute value as text."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case Enum():
            return str(value.value)
        case float() if math.isfinite(value) or math.isnan(value):
            return repr(value)
        case float():
            return "inf" if value > 0 else "-inf"
        case int():
            return str(value)
        case tuple():
            inner = ", ".join(map(literal, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        case _:
            escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            return f'"{escaped}"'


def _number(value: object, dtype: DType) -> object:
    if dtype is DType.BOOL:
        return bool(value)
    return float(value) if dtype.is_float else int(value)  # type: ignore[call-overload, arg-type]


def _attributes(fields: Mapping[str, object]) -> str:
    return "{" + ", ".join(f"{name}={literal(value)}" for name, value in fields.items()) + "}"


def _loc(node: Node) -> str:
    if not node.loc:
        return ""
    scope = f" in {literal(node.loc.scope)}" if node.loc.scope else ""
    return f" @ {literal(node.loc.file)}:{node.loc.line}{scope}"


def _structure(structure: Structure) -> str:
    if not isinstance(structure, Items):
        return structure or "none"
    parts = [_structure(part) for part in structure.parts]
    match structure.nesting:
        case Nesting.DICT:
            pairs = zip(map(literal, structure.keys), parts, strict=True)
            return "{" + ", ".join(f"{key}: {part}" for key, part in pairs) + "}"
        case Nesting.LIST:
            return f"[{', '.join(parts)}]"
        case Nesting.TUPLE:
            return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def _step(step: Step) -> str:
    match step:
        case Run(graph, inputs, outputs):
            return f"{', '.join(outputs)} = run @{graph}({', '.join(inputs)})"
        case ExitIf(condition, results):
            return f"exit_if {condition} return {', '.join(results)}".rstrip()
