"""A module back to PyTorch: prune or quantize here, fine-tune there, capture again.

Float weights become parameters under the names they were captured with; whole numbers, masks and
the statistics of batch norms become buffers; states are buffers that a call updates.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from optc.backends.reference.dtypes import to_tensor
from optc.backends.reference.evaluate import MEANING
from optc.ir.constant import Constant, Splat
from optc.ir.flow import Way, ways_out
from optc.ir.graph import Graph, Value
from optc.ir.module import Module
from optc.ir.names import value_names
from optc.ir.ops import BatchNorm
from optc.ir.structure import filled

END = "end"  # the way out of a module with exits that is no exit
_TUPLE = re.compile(r"^output\.(\d+)$")


def to_torch(module: Module) -> nn.Module:
    """An `nn.Module` that computes what the module computes, with trainable parameters.

    It takes the module's inputs by position or by name (dots as underscores), and returns what the
    captured model returned, nested alike; a module that was written by hand and does not say how
    returns one tensor, a tuple, or a dictionary by output name. States are updated in place.
    Gradients flow through every op that torch can differentiate. A module with exits takes none of
    them, so that all its heads can be trained: it returns what every way out returns, in a
    dictionary by the exits' names, the last one called `end`.
    """
    names = [re.sub(r"\W", "_", port.name) for port in module.inputs]
    # A class of its own: its forward's signature names the inputs, so that a capture finds them.
    cls = type(module.name, (_TorchModule,), {"forward": _forward(names)})
    made: nn.Module = cls(module)
    return made


class _TorchModule(nn.Module):
    """Walks the graphs with torch; weights are looked up by the place they are registered at."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self._module = module
        self._places: dict[Value, str] = {}
        self._states = {state.name: self._free(state.name, "states") for state in module.states}
        for state in module.states:
            _register(self, self._states[state.name], to_tensor(state.initial).clone(), False)
        for graph in module.graphs:
            self._add_weights(graph)

    def _free(self, name: str, prefix: str) -> str:
        """The place of a weight: its own name, unless that is an attribute of every module."""
        return f"{prefix}.{name}" if hasattr(nn.Module(), name.partition(".")[0]) else name

    def _add_weights(self, graph: Graph) -> None:
        frozen = _statistics(graph)
        shared = {id(item): place for place, item in self._registered(graph)}
        names = value_names(graph)
        for value, item in graph.constants.items():
            if isinstance(item.source, Splat):
                continue
            if id(item) not in shared:
                prefix = graph.name
                only = len(self._module.graphs) == 1
                place = self._free(names[value], prefix) if only else f"{prefix}.{names[value]}"
                shared[id(item)] = place
                trainable = item.type.dtype.is_float and value not in frozen
                tensor = to_tensor(item).clone()
                _register(self, shared[id(item)], tensor, trainable and not _is_literal(value))
            self._places[value] = shared[id(item)]

    def _registered(self, graph: Graph) -> list[tuple[str, Constant]]:
        """What earlier graphs registered already: weights that graphs share stay one parameter."""
        found = []
        for other in self._module.graphs:
            if other is graph:
                break
            found += [(self._places[v], c) for v, c in other.constants.items() if v in self._places]
        return found

    def _call(self, *inputs: Tensor) -> Any:
        names: dict[str, Tensor] = {
            port.name: tensor for port, tensor in zip(self._module.inputs, inputs, strict=True)
        }
        # Copies: an output may be a state's old content, or a view of it, when it is updated.
        names |= {name: _find(self, place).clone() for name, place in self._states.items()}
        ways = list(ways_out(self._module, names, self._run))
        for name, place in self._states.items():
            _find(self, place).copy_(ways[-1].states[name].detach())
        if len(ways) == 1:
            return self._returned(ways[0])
        return {way.name or END: self._returned(way) for way in ways}

    def _returned(self, way: Way[Tensor]) -> Any:
        if self._module.returns is not None:
            return filled(self._module.returns, way.outputs.__getitem__)
        return _packed(way.outputs)

    def _run(self, graph: Graph, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        values: dict[Value, Tensor] = dict(zip(graph.inputs, inputs, strict=True))
        for value, item in graph.constants.items():
            place = self._places.get(value)
            values[value] = to_tensor(item) if place is None else _find(self, place)
        for node in graph.nodes:
            found = MEANING[type(node.op)](node.op, *(values[value] for value in node.inputs))
            results = found if isinstance(found, tuple) else (found,)
            values.update(zip(node.outputs, results, strict=True))
        return tuple(values[value] for value in graph.outputs)


def _is_literal(value: Value) -> bool:
    """A constant that was written in the model's code (a mask, a table of places), not a weight."""
    return value.hint == "const"


def _statistics(graph: Graph) -> set[Value]:
    """Means and variances of batch norms: they are measured, not trained."""
    norms = [node for node in graph.nodes if isinstance(node.op, BatchNorm)]
    return {value for node in norms for value in node.inputs[1:3]}


def _register(root: nn.Module, path: str, tensor: Tensor, trainable: bool) -> None:
    *parents, leaf = [part or "_" for part in path.split(".")]
    owner = root
    for part in parents:
        child = owner._modules.get(part)
        if child is None:
            child = nn.Module()
            owner.add_module(part, child)
        owner = child
    if trainable:
        owner.register_parameter(leaf, nn.Parameter(tensor))
    else:
        owner.register_buffer(leaf, tensor)


def _find(root: nn.Module, path: str) -> Tensor:
    *parents, leaf = [part or "_" for part in path.split(".")]
    found = getattr(root.get_submodule(".".join(parents)), leaf)
    assert isinstance(found, Tensor)
    return found


def _packed(outputs: Mapping[str, Tensor]) -> Any:
    if list(outputs) == ["output"]:
        return outputs["output"]
    places = [_TUPLE.match(name) for name in outputs]
    if [int(place[1]) for place in places if place] == list(range(len(outputs))):
        return tuple(outputs.values())
    return dict(outputs)


def _forward(names: list[str]) -> Any:
    """A forward method that takes these arguments."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in ("self", *names)])

    def forward(self: _TorchModule, *args: Tensor, **kwargs: Tensor) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        return self._call(*(bound.arguments[name] for name in names))

    forward.__signature__ = signature  # type: ignore[attr-defined]
    return forward
