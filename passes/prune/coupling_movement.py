"""How positions are coupled through ops that move elements: positions move with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from optc.ir.graph import Node, Value
from optc.ir.ops import (
    Concat,
    Expand,
    Flip,
    GatherElements,
    GatherNd,
    Op,
    Pad,
    PadMode,
    Reshape,
    ScatterElements,
    ScatterNd,
    Slice,
    Take,
    Transpose,
)
from optc.passes.prune.ties import Factored, Rule, Ties

Axes = tuple[int, ...]


def _reshape(node: Node, ties: Ties) -> None:
    x, y = node.inputs[0], node.output
    if not x.type.elements:
        ties.pin_all((x, y), "an empty tensor is reshaped")
        return
    for left, right in factor_groups(x.shape, y.shape):
        if len(left) == len(right) == 1:
            ties.axis(x, left[0], y, right[0])
            continue
        axes = ((x, left), (y, right))
        split = _factored(ties, axes)
        if split is not None:
            ties.factored.append(split)
            continue
        for value, numbers in axes:
            ties.pin(value, numbers, f"the reshape {x.type} to {y.type} mixes this axis")


def factor_groups(a: Axes, b: Axes) -> list[tuple[Axes, Axes]]:
    """The smallest runs of axes, extents of 1 left out, that have equal products on both sides."""
    left = [axis for axis, extent in enumerate(a) if extent != 1]
    right = [axis for axis, extent in enumerate(b) if extent != 1]
    groups = []
    while left and right:
        some, other = [left.pop(0)], [right.pop(0)]
        while (gap := _product(a, some) - _product(b, other)) != 0:
            if gap < 0:
                some.append(left.pop(0))
            else:
                other.append(right.pop(0))
        groups.append((tuple(some), tuple(other)))
    return groups


def _product(shape: Axes, axes: list[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


def _factored(ties: Ties, sides: tuple[tuple[Value, Axes], ...]) -> Factored | None:
    """The common factors of both sides; None when [6, 4] meets [8, 3] and has none."""
    cuts = {1}
    for value, axes in sides:
        for place in range(len(axes)):
            cuts.add(math.prod(value.shape[axis] for axis in axes[place:]))
    ordered = sorted(cuts, reverse=True)
    if any(large % small for large, small in pairwise(ordered)):
        return None
    spans = []
    for value, axes in sides:
        for place, axis in enumerate(axes):
            outer = math.prod(value.shape[a] for a in axes[place:])
            inner = outer // value.shape[axis]
            spans.append((value, axis, ordered.index(outer), ordered.index(inner)))
    factors = tuple(a // b for a, b in pairwise(ordered))
    return Factored(factors, tuple(spans), ties.loc)


def _transpose(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Transpose)
    for axis, source in enumerate(node.op.perm):
        ties.axis(node.output, axis, node.inputs[0], source)


def _expand(node: Node, ties: Ties) -> None:
    ties.broadcast(node.inputs[0], node.output)


def _flip(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Flip)
    x, y = node.inputs[0], node.output
    for axis in range(x.type.rank):
        atoms = ties.atoms(x, axis)
        ties.tie(atoms[::-1] if axis in node.op.axes else atoms, ties.atoms(y, axis))


def _slice(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Slice)
    x, y = node.inputs[0], node.output
    rows = zip(node.op.starts, node.op.stops, node.op.steps, strict=True)
    for axis, (start, stop, step) in enumerate(rows):
        ties.tie(ties.atoms(x, axis)[start:stop:step], ties.atoms(y, axis))
        if step > 1:  # what is left of such a slice need not be evenly spaced
            ties.pin(x, (axis,), f"a slice takes every {step}th position of this axis")


def _pad(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Pad)
    x, y = node.inputs[0], node.output
    for axis, low in enumerate(node.op.low):
        inside = slice(low, low + x.shape[axis])
        ties.tie(ties.atoms(x, axis), ties.atoms(y, axis)[inside])
        if node.op.mode is not PadMode.CONSTANT and y.shape[axis] > x.shape[axis]:
            reason = f"{node.op.mode.value} padding copies positions of this axis"
            ties.pin(x, (axis,), reason)
            ties.pin(y, (axis,), reason)


def _concat(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Concat)
    y, start = node.output, 0
    for x in node.inputs:
        ties.same(x, y, [axis for axis in range(y.type.rank) if axis != node.op.axis])
        stop = start + x.shape[node.op.axis]
        ties.tie(ties.atoms(x, node.op.axis), ties.atoms(y, node.op.axis)[start:stop])
        start = stop


def _take(node: Node, ties: Ties) -> None:
    assert isinstance(node.op, Take)
    data, indices = node.inputs
    y, axis, width = node.output, node.op.axis, node.inputs[1].type.rank
    ties.pin(data, (axis,), "positions of this axis are picked by number")
    ties.same(data, y, range(axis))
    for number in range(width):
        ties.axis(indices, number, y, axis + number)
    for number in range(axis + 1, data.type.rank):
        ties.axis(data, number, y, number + width - 1)


def _elements(node: Node, ties: Ties) -> None:
    """Gather and scatter by element: along the axis by number, elsewhere place by place."""
    assert isinstance(node.op, GatherElements | ScatterElements)
    data, indices, *updates = node.inputs
    y, values = node.output, (*node.inputs, node.output)
    for axis in range(data.type.rank):
        if axis == node.op.axis:
            continue
        if len({value.shape[axis] for value in values}) == 1:
            for value in values[1:]:
                ties.same(data, value, (axis,))
            continue
        for value in values:
            ties.pin(value, (axis,), f"{node.op.name} leaves part of this axis out")
    reason = "positions of this axis are picked by number"
    ties.pin(data, (node.op.axis,), reason)
    if not updates:
        ties.same(indices, y, (node.op.axis,))
        return
    for value in (indices, *updates, y):
        ties.pin(value, (node.op.axis,), reason)


def _gather_nd(node: Node, ties: Ties) -> None:
    data, indices = node.inputs
    _indexed(ties, data, indices, node.output)


def _scatter_nd(node: Node, ties: Ties) -> None:
    data, indices, updates = node.inputs
    _indexed(ties, data, indices, updates)
    ties.same(data, node.output, range(data.type.rank))
    ties.pin(indices, range(indices.type.rank), "scatter_nd writes all its updates")


def _indexed(ties: Ties, data: Value, indices: Value, picked: Value) -> None:
    """`picked` is indexed [indices' leading axes, data's trailing axes]."""
    depth, leading = indices.shape[-1], indices.type.rank - 1
    ties.pin(data, range(depth), "positions of this axis are picked by number")
    ties.pin(indices, (-1,), "each place is given by all its coordinates")
    ties.same(indices, picked, range(leading))
    for number in range(depth, data.type.rank):
        ties.axis(data, number, picked, leading + number - depth)


RULES: Mapping[type[Op], Rule] = {
    Reshape: _reshape,
    Transpose: _transpose,
    Expand: _expand,
    Flip: _flip,
    Slice: _slice,
    Pad: _pad,
    Concat: _concat,
    Take: _take,
    GatherElements: _elements,
    ScatterElements: _elements,
    GatherNd: _gather_nd,
    ScatterNd: _scatter_nd,
}
