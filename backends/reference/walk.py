"""A graph run node by node, over many calls at once: layers are looked at, and mended, in order.

What a layer before has become is what the next one reads, and still every node runs once for each
call. Values of all calls lie in temporary files, from their node to their last reader.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from optc.backends.reference.calls import Stack, calls_at_once, run_stacks
from optc.backends.reference.dtypes import to_storage, to_tensor
from optc.ir.constant import Constant, constant
from optc.ir.graph import Graph, Node, Value
from optc.ir.module import Module, Run
from optc.passes.calibration import Batch

Array = NDArray[Any]
SMALL = 1 << 20  # bytes up to which a value stays in memory


class ReferenceWalk:
    """See `optc.passes.calibration.Walk`. The module has one graph, which runs once."""

    def __init__(
        self, module: Module, batches: Iterable[Batch], calls: int, keep: Collection[Value]
    ) -> None:
        (step,) = module.flow.steps
        assert isinstance(step, Run)
        self.module, self._graph = module, module.graph_of[step.graph]
        self._nodes, self._constants = list(self._graph.nodes), dict(self._graph.constants)
        self._folder = tempfile.TemporaryDirectory(prefix="optc-")
        self._names, self._next = count(), 0
        self._values: dict[Value, Array] = {}
        self._files: dict[Value, Path] = {}
        self._keep = {*keep, *self._graph.outputs}
        self._calls, self._at_once = calls, calls_at_once((self._graph,))
        self._last = {v: index for index, node in enumerate(self._nodes) for v in node.inputs}
        states = {state.name: state.initial.array for state in module.states}
        rooms = [self._room(value) for value in self._graph.inputs]
        for call, batch in enumerate(batches):
            for room, name in zip(rooms, step.inputs, strict=True):
                room[call] = states[name] if name in states else batch.inputs[name]

    @property
    def graph(self) -> Graph:
        """The graph as it is now; the same object when nothing was replaced."""
        if all(a is b for a, b in zip(self._nodes, self._graph.nodes, strict=True)):
            return self._graph
        read = {v for node in self._nodes for v in node.inputs} | {*self._graph.outputs}
        constants = {v: c for v, c in self._constants.items() if v in read}
        graph = self._graph
        return Graph(graph.name, graph.inputs, tuple(self._nodes), graph.outputs, constants)

    def until(self, value: Value) -> None:
        """Run nodes in order until `value` is there."""
        while value not in self._values:
            node = self._nodes[self._next]
            rooms = [self._room(output) for output in node.outputs]
            for first, results in self._run(node):
                for room, tensor, output in zip(rooms, results, node.outputs, strict=True):
                    room[first : first + len(tensor)] = to_storage(tensor, output.type.dtype)
            self._free(node)
            self._next += 1

    def has(self, value: Value) -> bool:
        """Whether it was computed and is still there."""
        return value in self._values

    def at(self, value: Value) -> Iterator[Array]:
        """The value of each call."""
        return iter(self._values[value])

    def drop(self, value: Value) -> None:
        """Forget a value of `keep` that nobody reads any more."""
        self._keep.discard(value)
        if self._last.get(value, -1) < self._next:
            self._forget(value)

    def results(self, node: Node) -> Iterator[Array]:
        """What a node computes now in each call; its inputs are there."""
        for _, found in self._run(node):
            yield from to_storage(found[0], node.outputs[0].type.dtype)

    def replace(self, node: Node, new: Node, constants: Mapping[Value, Constant]) -> None:
        """Put another node in the place of one that has not run; outputs are the same values."""
        index = self._nodes.index(node, self._next)
        self._nodes[index] = new
        self._constants.update(constants)
        self._last |= {value: index for value in new.inputs if value not in self._last}

    def fork(self) -> ReferenceWalk:
        """Files of values that both have stay readable, as they are mapped, until both let go."""
        other = copy.copy(self)
        other._nodes, other._constants = list(self._nodes), dict(self._constants)
        other._values, other._files = dict(self._values), dict(self._files)
        other._keep, other._last = set(self._keep), dict(self._last)
        return other

    def _run(self, node: Node) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Outputs [calls, *shape] of some calls at a time, and the number of the first."""
        fixed = {v: to_tensor(self._constants[v]) for v in node.inputs if v in self._constants}
        with torch.no_grad():
            for first in range(0, self._calls, self._at_once):
                calls = torch.arange(first, min(first + self._at_once, self._calls))
                given = [
                    Stack(fixed[v]) if v in fixed else Stack(self._tensor(v, calls), calls)
                    for v in node.inputs
                ]
                yield first, [stack.spread(calls) for stack in run_stacks(node, given)]

    def _tensor(self, value: Value, calls: torch.Tensor) -> torch.Tensor:
        rows = self._values[value][int(calls[0]) : int(calls[-1]) + 1]
        return to_tensor(constant(np.ascontiguousarray(rows), value.type.dtype))

    def _room(self, value: Value) -> Array:
        shape, kind = (self._calls, *value.shape), np.dtype(value.type.dtype.storage)
        if self._calls * value.type.nbytes < SMALL:
            self._values[value] = np.empty(shape, kind)
        else:
            path = Path(self._folder.name, f"{next(self._names)}.npy")
            self._files[value] = path
            self._values[value] = np.lib.format.open_memmap(path, "w+", kind, shape)
        return self._values[value]

    def _free(self, node: Node) -> None:
        """Forget what no later node reads."""
        for value in {*node.inputs, *node.outputs}:
            if value not in self._keep and self._last.get(value, -1) <= self._next:
                self._forget(value)

    def _forget(self, value: Value) -> None:
        self._values.pop(value, None)
        path = self._files.pop(value, None)
        if path is not None:
            path.unlink(missing_ok=True)
