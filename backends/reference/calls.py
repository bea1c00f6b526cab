"""Many calls of a module at once, each with inputs of its own: how data is walked quickly.

A node means for each call what it means for one; torch maps it over a leading axis of calls
(`torch.vmap`), so that a thousand samples take some tens of matrix products and not a thousand.
Results are those of single calls but for the order in which floats are added up.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optc.backends.reference.dtypes import to_storage, to_tensor
from optc.backends.reference.evaluate import last_uses, run_node
from optc.ir.constant import constant
from optc.ir.flow import ways_out
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module

Arrays = Mapping[str, NDArray[Any]]
See = Callable[[Value, NDArray[Any]], object]
T = TypeVar("T")
ROOM = 64 << 20  # bytes of the largest node's inputs and outputs, over all calls at once
MOST = 64  # calls: with more, products are no quicker


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A value of many calls, [calls, *shape], and their numbers; of shape alone where `calls` is
    None: then it is the same in every call.
    """

    tensor: Tensor
    calls: Tensor | None = None

    def of(self, calls: Tensor) -> Stack:
        """Of fewer calls; both lists of numbers are ascending."""
        if self.calls is None or torch.equal(self.calls, calls):
            return self
        return Stack(self.tensor[torch.searchsorted(self.calls, calls)], calls)

    def spread(self, calls: Tensor) -> Tensor:
        """With a leading axis in any case."""
        tensor = self.of(calls).tensor
        return tensor.expand(len(calls), *tensor.shape) if self.calls is None else tensor


def calls_at_once(graphs: Iterable[Graph]) -> int:
    """How many calls fit into `ROOM`, 1 to `MOST`."""
    nodes = [(node, graph) for graph in graphs for node in graph.nodes]
    largest = max((_moved(node, graph) for node, graph in nodes), default=1)
    return max(1, min(MOST, ROOM // max(largest, 1)))


def _moved(node: Node, graph: Graph) -> int:
    values = (*node.outputs, *(v for v in node.inputs if v not in graph.constants))
    return sum(value.type.nbytes for value in values)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def run_calls(module: Module, calls: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    """The outputs of each call by name, states at their first content, in storage of their dtype.

    Calls that leave by an exit take no part in the stages behind it.
    """
    found: list[dict[str, NDArray[Any]]] = [{} for _ in calls]
    walk = _Walk(module, calls)
    for way in ways_out(module, walk.given, walk.run):
        taken = walk.there
        if way.condition is not None:
            taken = walk.leave(way.condition)
        for port in module.outputs:
            rows = to_storage(way.outputs[port.name].spread(taken), port.type.dtype)
            for call, row in zip(taken.tolist(), rows, strict=True):
                found[call][port.name] = row
        if not len(walk.there):
            break
    return found


def see_calls(module: Module, calls: Sequence[Arrays], wanted: Collection[Value], see: See) -> None:
    """Show each value of `wanted` as [calls, *shape]; no exit is taken, every stage is seen."""
    walk = _Walk(module, calls, frozenset(wanted), see)
    for _ in ways_out(module, walk.given, walk.run):
        pass


class _Walk:
    """What `ways_out` needs to follow many calls; those that left are taken from `there`."""

    def __init__(
        self,
        module: Module,
        calls: Sequence[Arrays],
        wanted: frozenset[Value] = frozenset(),
        see: See | None = None,
    ) -> None:
        self.there = torch.arange(len(calls))
        self.wanted, self.see = wanted, see
        self.given = {state.name: Stack(to_tensor(state.initial)) for state in module.states}
        for port in module.inputs:
            arrays = np.stack([call[port.name] for call in calls])
            self.given[port.name] = Stack(to_tensor(constant(arrays, port.type.dtype)), self.there)

    def leave(self, condition: Stack) -> Tensor:
        """Numbers of the calls that leave here; the others stay."""
        leaves = condition.spread(self.there)
        taken, self.there = self.there[leaves], self.there[~leaves]
        return taken

    def run(self, graph: Graph, given: Sequence[Stack]) -> Sequence[Stack]:
        """Outputs of a graph for the calls that are there."""
        with torch.no_grad():
            values = {v: s.of(self.there) for v, s in zip(graph.inputs, given, strict=True)}
            self._show(graph.inputs, values)
            dying = last_uses(graph)
            for node in graph.nodes:
                self._fetch(graph, node.inputs, values)
                inputs = [values[value] for value in node.inputs]
                values.update(zip(node.outputs, run_stacks(node, inputs), strict=True))
                self._show(node.outputs, values)
                for value in dying[node]:
                    values.pop(value, None)
            self._fetch(graph, graph.outputs, values)
        return tuple(values[value] for value in graph.outputs)

    def _fetch(self, graph: Graph, wanted: Iterable[Value], values: dict[Value, Stack]) -> None:
        for value in wanted:
            if value not in values and value in graph.constants:
                values[value] = Stack(to_tensor(graph.constants[value]))

    def _show(self, shown: Iterable[Value], values: Mapping[Value, Stack]) -> None:
        for value in shown:
            if self.see is not None and value in self.wanted:
                self.see(value, to_storage(values[value].spread(self.there), value.type.dtype))


def run_stacks(node: Node, inputs: Sequence[Stack]) -> list[Stack]:
    """The outputs of a node; inputs that differ by call are of the same calls."""
    calls = next((stack.calls for stack in inputs if stack.calls is not None), None)
    tensors = [stack.tensor for stack in inputs]
    if calls is None:
        return [Stack(tensor) for tensor in run_node(node, tensors)]
    axes = tuple(None if stack.calls is None else 0 for stack in inputs)
    return [Stack(tensor, calls) for tensor in _mapped(node, tensors, axes, len(calls))]


def _mapped(
    node: Node, tensors: Sequence[Tensor], axes: tuple[int | None, ...], calls: int
) -> tuple[Tensor, ...]:
    def one(*given: Tensor) -> tuple[Tensor, ...]:
        return run_node(node, given)

    if calls and math.prod(node.outputs[0].shape):
        # Where torch has no rule for an op, a recurrent layer for one, calls go one by one.
        with suppress(RuntimeError, ValueError, NotImplementedError), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            found: tuple[Tensor, ...] = torch.vmap(one, in_dims=axes)(*tensors)
            return found
    rows = [
        one(*(t if axis is None else t[call] for t, axis in zip(tensors, axes, strict=True)))
        for call in range(calls)
    ]
    return tuple(torch.stack(items) for items in zip(*rows, strict=True))
