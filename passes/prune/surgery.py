"""Graph surgery: the same graph without some components.

Constants lose positions when they are loaded, attributes that bear shapes are counted anew, and
types are inferred again; each new shape must equal what was kept, else the mistake is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.builder import Builder
from optc.ir.constant import Constant, Splat, Stored, splat
from optc.ir.diagnostics import InternalError
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Conv, ConvTranspose, Expand, GroupNorm, Op, Pad, Reshape, Slice
from optc.ir.types import TensorType
from optc.passes.prune.coupling import Couplings

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Kept:
    """Which positions stay once `removed` (a mask over components) is gone."""

    found: Couplings
    removed: Mask

    def mask(self, value: Value, axis: int) -> Mask:
        """True where a position stays."""
        return ~self.removed[self.found.components(value, axis)]

    def shape(self, value: Value) -> tuple[int, ...]:
        """What is left of the value's shape."""
        return tuple(int(self.mask(value, axis).sum()) for axis in range(value.type.rank))


def remove(kept: Kept) -> Graph:
    """The graph without the removed components; the same object when they hold nothing.

    Raises InternalError when the parts no longer fit together.
    """
    return removal(kept)[0]


def removal(kept: Kept) -> tuple[Graph, Mapping[Value, Value]]:
    """As `remove`, and what became of each value."""
    graph = kept.found.graph
    if not kept.removed[kept.found.component].any():
        return graph, {}
    builder = Builder(graph.name)
    new: dict[Value, Value] = {}
    for value in graph.inputs:
        shape = kept.shape(value)
        same = shape == value.shape
        new[value] = value if same else Value(value.type.with_shape(shape), value.hint)
        builder.inputs.append(new[value])
    for value, item in graph.constants.items():
        content = pruned(item, [kept.mask(value, axis) for axis in range(value.type.rank)])
        new[value] = value if content is item else Value(content.type, value.hint)
        builder.constants[new[value]] = content
    for node in graph.nodes:
        _rebuild(node, kept, builder, new)
    return builder.build([new[value] for value in graph.outputs]), new


def pruned(item: Constant, masks: list[Mask]) -> Constant:
    """What is left of a constant; it is read when someone asks for it."""
    if all(mask.all() for mask in masks):
        return item
    type = TensorType(tuple(int(mask.sum()) for mask in masks), item.type.dtype)
    if isinstance(item.source, Splat):
        return splat(item.source.value, type)
    return Constant(type, Stored(lambda: np.ascontiguousarray(item.array[np.ix_(*masks)])))


def _rebuild(node: Node, kept: Kept, builder: Builder, new: dict[Value, Value]) -> None:
    inputs = tuple(new[value] for value in node.inputs)
    shapes = [kept.shape(value) for value in node.outputs]
    if inputs == node.inputs and all(
        s == v.shape for s, v in zip(shapes, node.outputs, strict=True)
    ):
        builder.append(node)
        new.update(zip(node.outputs, node.outputs, strict=True))
        return
    adapt = ADAPT.get(type(node.op))
    op = adapt(node.op, node, kept) if adapt else node.op
    types = op.infer(*(value.type for value in inputs))
    for type_, shape in zip(types, shapes, strict=True):
        if type_.shape != shape:
            message = f"{node.op.name} keeps {shape} of its output, the new inputs give {type_}"
            raise InternalError(message)
    outputs = tuple(
        Value(type_, value.hint) for type_, value in zip(types, node.outputs, strict=True)
    )
    builder.append(Node(op, inputs, outputs, node.loc))
    new.update(zip(node.outputs, outputs, strict=True))


def _shaped(op: Reshape | Expand, node: Node, kept: Kept) -> Op:
    return replace(op, shape=kept.shape(node.output))


def _slice(op: Slice, node: Node, kept: Kept) -> Op:
    """Bounds count what is kept before them; an axis that keeps all keeps its step."""
    rows = []
    for axis, row in enumerate(zip(op.starts, op.stops, op.steps, strict=True)):
        mask = kept.mask(node.inputs[0], axis)
        start, stop, _ = row
        rows.append(row if mask.all() else (int(mask[:start].sum()), int(mask[:stop].sum()), 1))
    starts, stops, steps = zip(*rows, strict=True)
    return Slice(starts, stops, steps)


def _pad(op: Pad, node: Node, kept: Kept) -> Op:
    """Padding that was removed is no longer added."""
    low, high = [], []
    for axis, width in enumerate(op.low):
        mask = kept.mask(node.output, axis)
        inside = width + node.inputs[0].shape[axis]
        low.append(int(mask[:width].sum()))
        high.append(int(mask[inside:].sum()))
    return replace(op, low=tuple(low), high=tuple(high))


def _conv(op: Conv | ConvTranspose, node: Node, kept: Kept) -> Op:
    """Whole groups are removed, so those that stay are as wide as they were."""
    channel = -1 if op.channels_last else 1
    x = node.inputs[0]
    width = max(1, x.shape[channel] // op.groups)
    axis = channel % x.type.rank
    return op if op.groups == 1 else replace(op, groups=kept.shape(x)[axis] // width)


def _group_norm(op: GroupNorm, node: Node, kept: Kept) -> Op:
    """As for convolutions."""
    x = node.inputs[0]
    axis = x.type.rank - 1 if op.channels_last else 1
    width = max(1, x.shape[axis] // op.groups)
    return op if op.groups == 1 else replace(op, groups=kept.shape(x)[axis] // width)


ADAPT: Mapping[type[Op], Callable[[Any, Node, Kept], Op]] = {
    Reshape: _shaped,
    Expand: _shaped,
    Slice: _slice,
    Pad: _pad,
    Conv: _conv,
    ConvTranspose: _conv,
    GroupNorm: _group_norm,
}
