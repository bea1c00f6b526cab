"""Walks the ATen nodes of a decomposed program and builds the graph, one rule per node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from optc.ir.builder import Builder
from optc.ir.capture import aten
from optc.ir.capture.context import Complex, Context
from optc.ir.capture.dims import Assignment, number_of
from optc.ir.capture.location import loc_of
from optc.ir.capture.refusal import DATA_DEPENDENT, RANDOM, Refusal, Unsupported
from optc.ir.capture.targets import ARITHMETIC
from optc.ir.diagnostics import Loc
from optc.ir.graph import Value
from optc.ir.ops import OpError

FOLD_ELEMENTS = 1 << 22  # larger results of constants alone are left to the artifact
_INLINED = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


class Importer:
    """Takes graphs of one program into one builder; `found` collects what could not be taken."""

    def __init__(
        self, builder: Builder, assignment: Assignment, origins: Mapping[str, Loc]
    ) -> None:
        self._origins = origins
        self.context = Context(builder, assignment)
        self.found: list[Unsupported] = []
        self._assignment = assignment

    def run(self, module: fx.GraphModule, arguments: list[Any]) -> list[Any]:
        """Results of a graph for its arguments: values, complex pairs, constants or numbers."""
        names = iter(arguments)
        values: dict[fx.Node, Any] = {}
        needed = _needed(module.graph)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(names)
            elif node.op == "get_attr":
                values[node] = _attribute(module, str(node.target))
            elif node.op == "output":
                results = fx.map_arg(node.args[0], values.__getitem__)
                return list(results) if isinstance(results, list | tuple) else [results]
            elif node in needed:
                values[node] = self._node(node, values)
        raise AssertionError("a graph without outputs")

    def _node(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        self.context.node = node
        self.context.builder.loc = loc_of(node, self._origins)
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
        try:
            return self._apply(node, list(args), kwargs)
        except Refusal as refusal:
            reason = str(refusal)
        except OpError as problem:
            reason = f"the IR's op does not take it: {problem}"
        self.found.append(Unsupported(_name(node), reason, self.context.builder.loc))
        return self._stand_in(node.meta.get("val"))

    def _apply(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        target = node.target
        if target in ARITHMETIC or getattr(target, "__module__", "") in ("_operator", "math"):
            return target(*args, **kwargs)  # type: ignore[operator]
        if isinstance(target, OpOverload):
            return self._operator(target, args, kwargs)
        name = getattr(target, "__name__", str(target))
        if name == _INLINED[0] and isinstance(args[1], fx.GraphModule):
            return self.run(args[1], args[2:])
        if name == _INLINED[1] and isinstance(args[4], fx.GraphModule):
            return self.run(args[4], args[5:])
        raise Refusal("control flow that depends on data is not supported")

    def _operator(self, target: OpOverload, args: list[Any], kwargs: dict[str, Any]) -> Any:
        rule = aten.rule(target)
        random = torch.Tag.nondeterministic_seeded in target.tags
        if random and rule is None:
            raise Refusal(RANDOM)
        tensors = [item for item in _leaves((args, kwargs)) if _is_tensor(item)]
        fixed = [self._fixed(item) for item in tensors]
        known = not random and all(item is not None for item in fixed)
        if known and self._foldable(bool(tensors)):
            return self._fold(target, args, kwargs)
        lifted = [_map(self._lift, arg) for arg in args]
        named = {key: _map(self._lift, value) for key, value in kwargs.items()}
        if any(isinstance(item, Complex) for item in _leaves((lifted, named))):
            return aten.complex_rule(target)(self.context, *lifted, **named)
        if rule is None:
            raise Refusal(_reason(target))
        return rule(self.context, *lifted, **named)

    def _lift(self, item: Any) -> Any:
        return self.context.lift(item) if isinstance(item, torch.Tensor) else item

    def _fixed(self, item: Any) -> torch.Tensor | None:
        """The tensor that an operand is at compile time; weights count as not known here."""
        if isinstance(item, torch.Tensor):
            return item
        return self.context.literal(item) if isinstance(item, Value) else None

    def _foldable(self, has_operands: bool) -> bool:
        fake = self.context.node.meta.get("val")
        if not has_operands or not isinstance(fake, torch.Tensor):
            return True
        try:
            return torch.Size(self.context.shape()).numel() <= FOLD_ELEMENTS
        except Refusal:
            return True

    def _fold(self, target: OpOverload, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Run an operator now: everything it reads is known."""
        if target in aten.FACTORIES:
            return aten.FACTORIES[target](self.context, *args, **kwargs)
        concrete = [_map(self._concrete, arg) for arg in args]
        named = {key: _map(self._concrete, value) for key, value in kwargs.items()}
        if "device" in named:
            named["device"] = torch.device("cpu")
        with torch.no_grad():
            return target(*concrete, **named)

    def _concrete(self, item: Any) -> Any:
        return self.context.literal(item) if isinstance(item, Value) else item

    def _stand_in(self, fake: Any) -> Any:
        """A value of the right type for what could not be taken, so that all problems are found."""
        if isinstance(fake, list | tuple):
            return [self._stand_in(item) for item in fake]
        if not isinstance(fake, torch.Tensor):
            return 1
        size = [_guess(extent, self._assignment) for extent in fake.shape]
        if fake.is_complex():
            part = torch.zeros(()).expand(size)
            return Complex(self.context.opaque(part), self.context.opaque(part))
        return self.context.opaque(torch.zeros((), dtype=fake.dtype).expand(size))


def _guess(extent: Any, assignment: Assignment) -> int:
    try:
        return number_of(extent, assignment)
    except Refusal:
        return 1


def _is_tensor(item: object) -> bool:
    return isinstance(item, Value | Complex | torch.Tensor)


def _leaves(item: Any) -> list[Any]:
    if isinstance(item, list | tuple):
        return [leaf for part in item for leaf in _leaves(part)]
    if isinstance(item, dict):
        return [leaf for part in item.values() for leaf in _leaves(part)]
    return [item]


def _map(function: Any, item: Any) -> Any:
    if isinstance(item, list | tuple):
        return [_map(function, part) for part in item]
    return function(item)


def _attribute(module: fx.GraphModule, path: str) -> Any:
    item: Any = module
    for part in path.split("."):
        item = getattr(item, part)
    return item


def _name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, OpOverload):
        return str(target).removesuffix(".default")
    return str(getattr(target, "__name__", target))


def _reason(target: OpOverload) -> str:
    if {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(target.tags):
        return DATA_DEPENDENT
    if target.namespace != "aten":
        return "it is a custom operator; optc knows ATen"
    return "there is no rule for it"


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that outputs depend on; checks of the data and what only they read are left out."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed:
            needed.update(node.all_input_nodes)
            needed.add(node)
        elif str(node.target) == "aten._assert_scalar.default" and _about_sizes(node.args[0]):
            needed.update([node, *node.all_input_nodes])
    return needed


def _about_sizes(item: Any) -> bool:
    value = item.meta.get("val") if isinstance(item, fx.Node) else None
    if not isinstance(value, torch.SymBool):
        return False
    return all(not str(symbol).startswith("u") for symbol in value.node.expr.free_symbols)
