"""An exported program to an `ir.Module`: ports, states, weights, and the one graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    InputSpec,
    OutputKind,
    SymIntArgument,
)

from optc.ir.builder import Builder, live_nodes
from optc.ir.capture.aten.complex_pairs import from_pair, to_pair
from optc.ir.capture.context import Complex
from optc.ir.capture.decompositions import table
from optc.ir.capture.dims import Assignment, assign, dimensions, forget_derived_ranges, number_of
from optc.ir.capture.dtypes import from_torch
from optc.ir.capture.importer import Importer
from optc.ir.capture.location import origins_of
from optc.ir.capture.refusal import Refusal, Unsupported, report
from optc.ir.capture.treespec import input_names, output_names, structure_of
from optc.ir.capture.weights import identity_of, oddities, weight_of
from optc.ir.diagnostics import Diagnostic, Severity, error
from optc.ir.graph import Value
from optc.ir.module import Flow, Module, Port, Run, State
from optc.ir.structure import Structure
from optc.ir.types import TensorType

_UNFIT = re.compile(r"[^A-Za-z0-9_.]+")


def module_from(
    program: ExportedProgram,
    name: str,
    shapes: Mapping[str, int] | None,
    diagnostics: list[Diagnostic],
) -> Module:
    """Fix the dimensions, decompose, and take every node; raises E0210 to E0230."""
    names = _input_names(program)
    fakes = _fakes(program)
    dims = dimensions(program, [(names[key], fakes[key]) for key in names])
    assignment = assign(dims, shapes)
    forget_derived_ranges(program)
    origins = origins_of(program)
    try:
        flat = program.run_decompositions(table())
    except Exception as problem:
        first = str(problem).strip().partition("\n")[0]
        raise error(
            "E0222",
            f"torch cannot decompose the program: {type(problem).__name__}: {first}",
            help="program.run_decompositions() shows torch's own explanation",
        ) from problem
    importer = Importer(Builder(), assignment, origins)
    return _Assembly(flat, importer, assignment, diagnostics).module(
        _UNFIT.sub("_", name) or "model"
    )


def _fakes(program: ExportedProgram) -> dict[str, Any]:
    nodes = program.graph.find_nodes(op="placeholder")
    return {node.name: node.meta.get("val") for node in nodes}


def _input_names(program: ExportedProgram) -> dict[str, str]:
    """The user's name for each placeholder that is an input."""
    signature = program.module_call_graph[0].signature
    assert signature is not None
    specs = [s for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    names = input_names(signature.in_spec, signature.forward_arg_names or [])
    return {spec.arg.name: name for spec, name in zip(specs, names, strict=True)}


def _free(name: str, taken: set[str]) -> str:
    """The name, made new, and taken from now on; two keys may differ in what no name can hold."""
    new = f"output.{name}" if name in taken else name
    count = 0
    while new in taken:
        count += 1
        new = f"output.{name}.{count}"
    taken.add(new)
    return new


class _Assembly:
    """One program being turned into a module."""

    def __init__(
        self,
        program: ExportedProgram,
        importer: Importer,
        assignment: Assignment,
        diagnostics: list[Diagnostic],
    ) -> None:
        self.program = program
        self.assignment = assignment
        self.diagnostics = diagnostics
        self.importer = importer
        self.builder = importer.context.builder
        self.inputs: list[Port] = []
        self.states: list[State] = []
        self._state_values: list[Value] = []
        self._state_targets: list[str] = []
        self._weights: dict[tuple[object, ...], Any] = {}
        self.returns: Structure = None
        self._mutated = set(program.graph_signature.buffers_to_mutate.values())

    def module(self, name: str) -> Module:
        """The module; raises E0230 with all nodes that could not be taken."""
        arguments = self._arguments()
        with torch.no_grad():
            results = self.importer.run(self.program.graph_module, arguments)
            outputs, values, updates = self._results(results)
        if self.importer.found:
            raise report(self.importer.found)
        self._warn_of_written_inputs()
        returned = (*values, *updates)
        self.builder.inputs += self._state_values
        self.builder.nodes = list(live_nodes(self.builder.nodes, returned))
        graph = self.builder.build(returned)
        states = tuple(state.name for state in self.states)
        run = Run(
            graph.name,
            (*(port.name for port in self.inputs), *states),
            (*(port.name for port in outputs), *states),
        )
        flow = Flow((run,))
        return Module(
            name, tuple(self.inputs), outputs, tuple(self.states), (graph,), flow, self.returns
        )

    def _arguments(self) -> list[Any]:
        names = _input_names(self.program)
        nodes = self.program.graph.find_nodes(op="placeholder")
        specs = self.program.graph_signature.input_specs
        return [self._argument(n, s, names) for n, s in zip(nodes, specs, strict=True)]

    def _argument(self, node: fx.Node, spec: InputSpec, names: Mapping[str, str]) -> Any:
        self.importer.context.node = node
        if isinstance(spec.arg, ConstantArgument):
            return spec.arg.value
        if isinstance(spec.arg, SymIntArgument):
            return number_of(node.meta["val"], self.assignment)
        match spec.kind:
            case InputKind.USER_INPUT:
                return self._input(node, names[spec.arg.name])
            case InputKind.PARAMETER | InputKind.BUFFER:
                return self._weight(str(spec.target), spec.kind is InputKind.PARAMETER)
            case InputKind.CONSTANT_TENSOR:
                return self.program.constants[str(spec.target)]
            case _:
                reason = "custom objects are not supported"
                raise report([Unsupported(str(spec.target), reason, self.builder.loc)])

    def _input(self, node: fx.Node, name: str) -> Value | Complex:
        fake = node.meta["val"]
        shape = tuple(number_of(size, self.assignment) for size in fake.shape)
        try:
            dtype = from_torch(fake.dtype)
        except Refusal as refusal:
            raise report([Unsupported(f"input {name}", str(refusal), self.builder.loc)]) from None
        type = TensorType((*shape, 2) if fake.is_complex() else shape, dtype)
        value = self.builder.input(type, name)
        self.inputs.append(Port(name, type))
        return from_pair(self.importer.context, value) if fake.is_complex() else value

    def _weight(self, name: str, is_parameter: bool) -> Any:
        state = self.program.state_dict
        tensor = state[name] if name in state else self.program.constants[name]
        tensor = tensor.detach()
        self.diagnostics += oddities(name, tensor, is_parameter=is_parameter)
        if name in self._mutated:
            return self._state(name, tensor)
        key = identity_of(tensor)
        if tensor.numel() == 0 or key not in self._weights:
            self._weights[key] = self._new_weight(name, tensor)
        return self._weights[key]

    def _new_weight(self, name: str, tensor: torch.Tensor) -> Any:
        if tensor.is_complex():
            parts = torch.view_as_real(tensor.resolve_conj())
            halves = zip(("re", "im"), parts.unbind(-1), strict=True)
            return Complex(*(self._constant(f"{name}.{part}", half) for part, half in halves))
        return self._constant(name, tensor)

    def _constant(self, name: str, tensor: torch.Tensor) -> Value:
        value = self.builder.constant(weight_of(tensor), name)
        self.importer.context.weight(value, tensor)
        return value

    def _state(self, name: str, tensor: torch.Tensor) -> Value | Complex:
        stored = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        taken = {port.name for port in self.inputs}
        label = name if name not in taken else f"state.{name}"
        self._state_targets.append(name)
        self.states.append(State(label, weight_of(stored)))
        value = Value(self.states[-1].type, label)
        self._state_values.append(value)
        return from_pair(self.importer.context, value) if tensor.is_complex() else value

    def _results(self, results: list[Any]) -> tuple[tuple[Port, ...], list[Value], list[Value]]:
        """Ports and values of the outputs, and the new content of each state in order."""
        signature = self.program.module_call_graph[0].signature
        assert signature is not None
        names = iter(output_names(signature.out_spec))
        leaves: list[str | None] = []
        ports: list[Port] = []
        values: list[Value] = []
        updates: dict[str, Value] = {}
        # `none` in the text form is Python's None.
        taken = {"none", *(p.name for p in self.inputs), *(s.name for s in self.states)}
        for spec, result in zip(self.program.graph_signature.output_specs, results, strict=True):
            if spec.kind is OutputKind.BUFFER_MUTATION:
                updates[str(spec.target)] = self._value(result)
            elif spec.kind is OutputKind.USER_OUTPUT:
                name = next(names)
                if result is None or isinstance(result, str):
                    leaves.append(None)
                    continue
                name = _free(name, taken)
                leaves.append(name)
                values.append(self._value(result))
                ports.append(Port(name, values[-1].type))
        ordered = [updates[target] for target in self._state_targets]
        self.returns = structure_of(signature.out_spec, iter(leaves))
        return tuple(ports), values, ordered

    def _value(self, result: Any) -> Value:
        context = self.importer.context
        if isinstance(result, bool | int | float):
            result = torch.tensor(result)
        if isinstance(result, torch.Tensor):
            result = context.lift(result)
        if isinstance(result, Complex):
            return to_pair(context, result)
        assert isinstance(result, Value)
        return result

    def _warn_of_written_inputs(self) -> None:
        names = _input_names(self.program)
        for spec in self.program.graph_signature.output_specs:
            if spec.kind is OutputKind.USER_INPUT_MUTATION:
                name = names.get(str(spec.target), str(spec.target))
                self.diagnostics.append(
                    Diagnostic(
                        "W0241",
                        f"the model writes to its input {name}; the artifact leaves it as it is",
                        Severity.WARNING,
                        help="return the new value as an output where the caller needs it",
                    )
                )
