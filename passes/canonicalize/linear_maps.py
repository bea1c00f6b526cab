"""Values that are a constant linear map of another value, along its last axis.

y[..., f] = sum over t of source[..., t] * kernel[..., t, f]. Kernels are written out on demand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from optc.ir.constant import Absent, to_floats
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Linear, Pad, PadMode, Reshape, Slice, ew

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LinearMap:
    """`shape` is the kernel's, [*lead, T, F]; `view` is the shape that the source is read in."""

    source: Value
    view: Shape
    shape: Shape
    nodes: frozenset[Node]
    write: Callable[[], np.ndarray]

    @cached_property
    def kernel(self) -> np.ndarray:
        """The map written out, in f64."""
        return self.write()

    @property
    def lead(self) -> Shape:
        """Extents of the axes that the kernel varies along, 1 elsewhere."""
        return self.shape[:-2]

    @property
    def linears(self) -> tuple[Node, ...]:
        """The linear layers in the map."""
        return tuple(node for node in self.nodes if isinstance(node.op, Linear))


class LinearMaps:
    """The maps of a graph's values, found on demand and kept."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.found: dict[Value, LinearMap | None] = {}

    def of(self, value: Value) -> LinearMap | None:
        """How `value` depends on another one, or None if not by a constant linear map."""
        if value not in self.found:
            node = self.graph.producer.get(value)
            self.found[value] = None if node is None else self._of(node)
        return self.found[value]

    def _of(self, node: Node) -> LinearMap | None:
        match node.op:
            case Linear():
                return self._linear(node)
            case ew.Mul():
                return self._scaled(node)
            case ew.Add() | ew.Sub():
                return self._sum(node)
            case ew.Neg():
                return self._changed(node, lambda kernel: -kernel)
            case Slice():
                return self._slice(node)
            case Pad():
                return self._pad(node)
            case Reshape():
                return self._reshape(node)
        return None

    def _start(self, value: Value) -> LinearMap:
        """The map of `value`, or of itself."""
        extent = value.shape[-1]
        lead = (1,) * (value.type.rank - 1)

        def write() -> np.ndarray:
            return np.eye(extent).reshape(*lead, extent, extent)

        own = LinearMap(value, value.shape, (*lead, extent, extent), frozenset(), write)
        return self.of(value) or own

    def _constant(self, value: Value) -> np.ndarray | None:
        item = self.graph.constants.get(value)
        if item is None or isinstance(item.source, Absent) or not item.type.dtype.is_float:
            return None
        return to_floats(item)

    def _linear(self, node: Node) -> LinearMap | None:
        weight = self._constant(node.inputs[1])
        if weight is None or len(node.inputs) > 2:
            return None
        x = self._start(node.inputs[0])
        shape = (*x.shape[:-1], weight.shape[0])
        nodes = x.nodes | {node}
        matrix = weight
        if not x.nodes:  # the kernel of the source itself is not worth a product

            def write() -> np.ndarray:
                return matrix.astype(np.float64).T.reshape(shape)
        else:

            def write() -> np.ndarray:
                return x.kernel @ matrix.astype(np.float64).T

        return LinearMap(x.source, x.view, shape, nodes, write)

    def _scaled(self, node: Node) -> LinearMap | None:
        a, b = node.inputs
        value, other = (a, b) if b in self.graph.constants else (b, a)
        x, factor = self.of(value), self._constant(other)
        if x is None or factor is None or not x.nodes:
            return None
        rank = node.output.type.rank
        row = factor.reshape((1,) * (rank - factor.ndim) + factor.shape).astype(np.float64)
        extra = (1,) * (rank - len(x.view))
        old = extra + x.shape
        lead = np.broadcast_shapes(old[:-2], row.shape[:-1])
        if value.shape[-1] != node.output.shape[-1]:
            return None

        def write() -> np.ndarray:
            return x.kernel.reshape(old) * row[..., None, :]

        shape = (*lead, *x.shape[-2:])
        return LinearMap(x.source, extra + x.view, shape, x.nodes | {node}, write)

    def _sum(self, node: Node) -> LinearMap | None:
        a, b = (self.of(value) for value in node.inputs)
        if a is None or b is None or a.source is not b.source or a.view != b.view:
            return None
        if a.shape[-2:] != b.shape[-2:]:
            return None
        sign = 1.0 if isinstance(node.op, ew.Add) else -1.0

        def write() -> np.ndarray:
            return a.kernel + sign * b.kernel

        shape = np.broadcast_shapes(a.shape, b.shape)
        return LinearMap(a.source, a.view, shape, a.nodes | b.nodes | {node}, write)

    def _changed(
        self,
        node: Node,
        change: Callable[[np.ndarray], np.ndarray],
        *,
        extent: int | None = None,
        x: LinearMap | None = None,
    ) -> LinearMap | None:
        """The map of the operand with its kernel changed, its last axis having `extent`."""
        inner = x or self.of(node.inputs[0])
        if inner is None:
            return None
        shape = (*inner.shape[:-1], inner.shape[-1] if extent is None else extent)
        nodes = inner.nodes | {node}
        return LinearMap(inner.source, inner.view, shape, nodes, lambda: change(inner.kernel))

    def _slice(self, node: Node) -> LinearMap | None:
        op, x = node.op, node.inputs[0]
        assert isinstance(op, Slice)
        if node.output.shape[:-1] != x.shape[:-1] or not x.type.rank:
            return None
        last = slice(op.starts[-1], op.stops[-1], op.steps[-1])
        extent = node.output.shape[-1]
        return self._changed(
            node, lambda kernel: kernel[..., last], extent=extent, x=self._start(x)
        )

    def _pad(self, node: Node) -> LinearMap | None:
        op, x = node.op, node.inputs[0]
        assert isinstance(op, Pad)
        zeros = op.mode is PadMode.CONSTANT and op.value == 0 and x.type.dtype.is_float
        if not zeros or not x.type.rank or node.output.shape[:-1] != x.shape[:-1]:
            return None
        width = (op.low[-1], op.high[-1])

        def change(kernel: np.ndarray) -> np.ndarray:
            return np.pad(kernel, [*[(0, 0)] * (kernel.ndim - 1), width])

        return self._changed(node, change, extent=node.output.shape[-1], x=self._start(x))

    def _reshape(self, node: Node) -> LinearMap | None:
        """A reshape of leading axes, where the kernel does not vary along them."""
        x, shape = self.of(node.inputs[0]), node.output.shape
        if x is None or not shape or shape[-1] != x.shape[-1] or any(d != 1 for d in x.lead):
            return None
        lead = (1,) * (len(shape) - 1)

        def write() -> np.ndarray:
            return x.kernel.reshape(*lead, *x.shape[-2:])

        view = (*shape[:-1], x.shape[-2])
        return LinearMap(x.source, view, (*lead, *x.shape[-2:]), x.nodes | {node}, write)
