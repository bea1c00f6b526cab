"""Where an anchor's element ends up: pushes an index through the nodes that follow the anchor.

Epilogues move data as well as compute on it (split heads, transpose back). Pulling from the output
would visit elements in the output's order; a register tile needs the opposite: given the tile's
index, the place of each later value. Values are then pulled with the anchor's element at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Call, Expr

from optc.backends.tvm.templates.elements import Key, key_of, unrounded
from optc.backends.tvm.templates.loops import as_index
from optc.backends.tvm.templates.plan import Miss
from optc.ir.graph import Graph, Node, Value
from optc.ir.ops import Expand, Reshape, Transpose


@dataclass(frozen=True)
class Lane:
    """The index `base + lane` of a vector's elements, 0 <= lane < lanes, base a multiple of lanes.

    Divided by a multiple of `lanes` it stays a vector of neighbours, which a plain sum would hide.
    """

    base: Expr
    lane: Expr
    lanes: int


Coordinate: TypeAlias = Expr | Lane
Coordinates: TypeAlias = Sequence[Coordinate]


def shifted(coordinate: Coordinate, start: Expr) -> Coordinate:
    """The coordinate moved by `start`, a multiple of its lanes."""
    if isinstance(coordinate, Lane):
        return Lane(start + coordinate.base, coordinate.lane, coordinate.lanes)
    return start + coordinate


def plain(index: Coordinates) -> list[Expr]:
    """The index as expressions."""
    return [i.base + i.lane if isinstance(i, Lane) else i for i in index]


def followers(body: Graph, anchor: Value) -> tuple[Node, ...]:
    """The nodes that depend on the anchor's value, in order."""
    reached = {anchor}
    found: list[Node] = []
    for node in body.nodes:
        if not reached.isdisjoint(node.inputs):
            reached.update(node.outputs)
            found.append(node)
    return tuple(found)


def places(
    body: Graph, anchor: Value, index: Coordinates, tensors: Mapping[Value, te.Tensor]
) -> dict[Value, Coordinates] | Miss:
    """The index at which each value that follows holds what the anchor holds at `index`."""
    found: dict[Value, Coordinates] = {anchor: index}
    for node in followers(body, anchor):
        (source, *others) = [found[value] for value in node.inputs if value in found]
        if any(not _same(source, other) for other in others):
            return Miss(f"{node.op.name} meets the anchor's value at two places")
        values = [value for value in node.inputs if value in found]
        place = _step(node, values, source, tensors)
        if isinstance(place, Miss):
            return place
        found.update(dict.fromkeys(node.outputs, place))
    return found


def _step(
    node: Node, values: Sequence[Value], place: Coordinates, tensors: Mapping[Value, te.Tensor]
) -> Coordinates | Miss:
    shape = node.outputs[0].shape
    match node.op:
        case Reshape():
            return reshape(place, values[0].shape, shape)
        case Transpose(perm=perm):
            return [place[axis] for axis in perm]
        case Expand() if math.prod(shape) != values[0].type.elements:
            return Miss(f"{node.op.name} repeats the anchor's value")
    if any(v.type.elements != math.prod(shape) for v in values):
        return Miss(f"{node.op.name} repeats or folds the anchor's value")
    if not isinstance(node.op, Expand) and not is_elementwise(node, values, tensors):
        return Miss(f"{node.op.name} is not elementwise on the anchor's value")
    return [as_index(0)] * (len(shape) - len(place)) + list(place)


def is_elementwise(node: Node, values: Sequence[Value], tensors: Mapping[Value, te.Tensor]) -> bool:
    """Whether each output element reads `values` only at its own place."""
    sources = {key_of(t) for v in values for t in (tensors[v], unrounded(tensors[v]))}
    return all(_reads_in_place(tensors[output], sources) for output in node.outputs)


def _reads_in_place(tensor: te.Tensor, sources: set[Key]) -> bool:
    if key_of(tensor) in sources:
        return True
    op = tensor.op
    if not isinstance(op, te.ComputeOp):
        return isinstance(op, te.PlaceholderOp)
    if op.reduce_axis:
        return not _depends(tensor, sources)
    axes = [axis.var for axis in op.axis]
    return all(
        _is_at(index, axes, source) and _reads_in_place(source, sources)
        for source, index in _loads(op)
        if _depends(source, sources)
    )


def _loads(op: te.ComputeOp) -> list[tuple[te.Tensor, list[Expr]]]:
    found: list[tuple[te.Tensor, list[Expr]]] = []

    def call(item: Call) -> None:
        if item.op.name == "te.tensor_load":
            found.append((item.args[0], list(item.args[1:])))

    for body in op.body:
        tvm_ffi.structural_walk(body, (Call, call))
    return found


def _is_at(index: Sequence[Expr], axes: Sequence[Expr], source: te.Tensor) -> bool:
    here = axes[len(axes) - len(index) :]
    return len(index) <= len(axes) and all(
        int(dim) == 1 or i.same_as(axis)
        for i, axis, dim in zip(index, here, source.shape, strict=True)
    )


def _depends(tensor: te.Tensor, sources: set[Key]) -> bool:
    return key_of(tensor) in sources or any(
        _depends(item, sources) for item in tensor.op.input_tensors
    )


def _same(a: Coordinates, b: Coordinates) -> bool:
    a, b = plain(a), plain(b)
    rank = max(len(a), len(b))
    a, b = ([as_index(0)] * (rank - len(i)) + list(i) for i in (a, b))
    return all(map(tvm_ffi.structural_equal, a, b))


def reshape(place: Coordinates, old: Sequence[int], new: Sequence[int]) -> Coordinates:
    """The index under shape `new` of the element at `place` under `old`, both row-major.

    Runs of axes with equal products are converted on their own, so that splitting one axis does
    not touch the others.
    """
    result: list[Coordinate] = []
    source = [(i, dim) for i, dim in zip(place, old, strict=True) if dim != 1]
    wanted = [dim for dim in new if dim != 1]
    while wanted:
        taken, run = [source.pop(0)], [wanted.pop(0)]
        while (have := math.prod(dim for _, dim in taken)) != (want := math.prod(run)):
            if have < want:
                taken.append(source.pop(0))
            else:
                run.append(wanted.pop(0))
        result += _split(_joined(taken), run)
    kept = iter(result)
    return [as_index(0) if dim == 1 else next(kept) for dim in new]


def _joined(run: Sequence[tuple[Coordinate, int]]) -> Coordinate:
    """Row-major position within a run of axes."""
    position: Coordinate = run[0][0]
    for coordinate, extent in run[1:]:
        outer = position.base + position.lane if isinstance(position, Lane) else position
        if not isinstance(coordinate, Lane):
            position = outer * extent + coordinate
        elif extent % coordinate.lanes == 0:
            base = outer * extent + coordinate.base
            position = Lane(base, coordinate.lane, coordinate.lanes)
        else:
            position = outer * extent + coordinate.base + coordinate.lane
    return position


def _split(position: Coordinate, extents: Sequence[int]) -> list[Coordinate]:
    """The coordinates of a row-major position."""
    found: list[Coordinate] = []
    for extent in reversed(extents[1:]):
        if isinstance(position, Lane) and extent % position.lanes == 0:
            found.append(Lane(tirx.floormod(position.base, extent), position.lane, position.lanes))
            position = tirx.floordiv(position.base, extent)
            continue
        whole = position.base + position.lane if isinstance(position, Lane) else position
        found.append(tirx.floormod(whole, extent))
        position = tirx.floordiv(whole, extent)
    return [position, *reversed(found)]
