"""Structure: a digest of what a graph computes, whatever its values are called; and a diff."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib

from optc.ir.graph import Graph, Value
from optc.ir.module import Module, Run
from optc.ir.ops.base import Op
from optc.ir.printer import literal, op_fields, print_module


def graph_digest(graph: Graph) -> str:
    """SHA-256 over ops, attributes, wiring, types and constants; names and places do not count."""
    number: dict[Value, int] = {value: index for index, value in enumerate(graph.inputs)}
    content = hashlib.sha256()
    content.update(" ".join(str(value.type) for value in graph.inputs).encode())
    for node in graph.nodes:
        for value in node.inputs:
            if value in graph.constants and value not in number:
                number[value] = len(number)
                content.update(f"constant {graph.constants[value].digest}\n".encode())
        for value in node.outputs:
            number[value] = len(number)
        inputs = " ".join(str(number[value]) for value in node.inputs)
        types = " ".join(str(value.type) for value in node.outputs)
        content.update(f"{op_key(node.op)} {inputs} : {types}\n".encode())
    for value in graph.outputs:
        if value in graph.constants and value not in number:
            number[value] = len(number)
            content.update(f"constant {graph.constants[value].digest}\n".encode())
    content.update(" ".join(str(number[value]) for value in graph.outputs).encode())
    return content.hexdigest()


def op_key(op: Op) -> str:
    """An op's name and attributes as text: equal keys mean the same computation."""
    fields, body = op_fields(op)
    text = " ".join(f"{name}={literal(value)}" for name, value in fields.items())
    return f"{op.name} {text} {graph_digest(body) if body is not None else ''}"


def module_digest(module: Module) -> str:
    """SHA-256 of the whole module: ports, what is returned, states, flow and graphs."""
    content = hashlib.sha256()
    ports = [*module.inputs, *module.outputs]
    content.update("\n".join(f"{port.name} {port.type}" for port in ports).encode())
    states = [f"{state.name} {state.initial.digest}" for state in module.states]
    content.update("\n".join(states).encode())
    content.update(f"{module.returns}".encode())
    for step in module.flow.steps:
        kind = "" if isinstance(step, Run) else type(step).__name__
        content.update(f"{kind}{dataclasses.astuple(step)!r}".encode())
    for graph in module.graphs:
        content.update(f"{graph.name} {graph_digest(graph)}\n".encode())
    return content.hexdigest()


def module_diff(before: Module, after: Module) -> str:
    """Unified diff of the two text forms; empty when they print alike."""
    old, new = (print_module(m).splitlines(keepends=True) for m in (before, after))
    return "".join(difflib.unified_diff(old, new, "before", "after", n=2))
