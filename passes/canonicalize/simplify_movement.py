"""Identities of ops that only move elements, and of reductions over nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optc.ir.constant import splat, to_floats
from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import (
    UNARY,
    ArgMax,
    ArgMin,
    Concat,
    Expand,
    Flip,
    Pad,
    PadMode,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    Reshape,
    ScatterElements,
    ScatterNd,
    Slice,
    Softmax,
    Take,
)  # fmt: skip
from optc.ir.ops.reduction import Reduce
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import made_by, reshaped
from optc.passes.rewrite import Answer, Rules, Site, rewrite
from optc.passes.weights import known

# Not ReduceSum and ReduceMean: their sum starts from 0.0, which turns a lone -0.0 into 0.0.
_REDUCE = (ReduceAll, ReduceAny, ReduceMax, ReduceMin, ReduceProd)


@dataclass(frozen=True)
class SimplifyMovement(Pass):
    """Join and remove ops that only move elements.

    Chains of reshapes, expands, slices, pads and concats become one op or none; a slice of a
    concat reads the piece it needs; slices put together again are the tensor they came from;
    looking up known consecutive rows is a slice; reducing an axis of extent 1 is a reshape;
    scattering no updates changes nothing.
    """

    name = "simplify-movement"
    effect = Effect.EXACT

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with fewer movements."""
        return rewrite(module, _RULES, ctx, code="N0302")


def _keep_axes(node: Node, site: Site) -> Answer:
    """A reshape that only restores, or only drops, the axes that a reduction left with extent 1."""
    inner = made_by(site, node.inputs[0], Reduce)
    if inner is None or not isinstance(inner.op, Reduce) or site.uses(inner.output) > 1:
        return None
    other = replace(inner.op, keepdims=not inner.op.keepdims)
    (type,) = other.infer(inner.inputs[0].type)
    return site.emit(other, inner.inputs[0]) if type == node.output.type else None


def _around(node: Node, site: Site) -> Answer:
    """reshape(f(reshape(x))) back to the shape of x, where f does not look at the axes reshaped."""
    middle = made_by(site, node.inputs[0], *UNARY, Softmax)
    inner = None if middle is None else made_by(site, middle.inputs[0], Reshape)
    if middle is None or inner is None or site.uses(middle.output) > 1:
        return None
    x = inner.inputs[0]
    if x.shape != node.output.shape:
        return None
    if not isinstance(middle.op, Softmax):
        return site.emit(middle.op, x)
    last = middle.op.axis == middle.output.type.rank - 1
    same = last and x.type.rank and x.shape[-1] == middle.output.shape[-1]
    return site.emit(type(middle.op)(x.type.rank - 1), x) if same else None


def _same_type(node: Node, site: Site) -> Answer:
    return node.inputs[0] if node.inputs[0].type == node.output.type else None


def _chain(node: Node, site: Site) -> Answer:
    """The later of two reshapes, or of two expands, says it all."""
    inner = made_by(site, node.inputs[0], type(node.op))
    return None if inner is None else site.emit(node.op, inner.inputs[0])


def _expand_as_reshape(node: Node, site: Site) -> Answer:
    same = node.inputs[0].type.elements == node.output.type.elements
    return site.emit(Reshape(node.output.shape), node.inputs[0]) if same else None


def _flip(node: Node, site: Site) -> Answer:
    x, op = node.inputs[0], node.op
    assert isinstance(op, Flip)
    axes = tuple(axis for axis in sorted(set(op.axes)) if x.shape[axis] != 1)
    inner = made_by(site, x, Flip)
    if inner is not None and isinstance(inner.op, Flip):
        axes, x = tuple(sorted(set(axes) ^ set(inner.op.axes))), inner.inputs[0]
    if not axes:
        return x
    return None if axes == op.axes and inner is None else site.emit(Flip(axes), x)


def _slice_of_slice(node: Node, site: Site) -> Answer:
    inner = made_by(site, node.inputs[0], Slice)
    if inner is None or not isinstance(inner.op, Slice) or not isinstance(node.op, Slice):
        return None
    bounds: list[tuple[int, int, int]] = []
    rows = zip(
        inner.inputs[0].shape, inner.op.starts, inner.op.steps, node.op.starts, node.op.steps,
        node.output.shape, strict=True,
    )  # fmt: skip
    for extent, start, step, next_start, next_step, count in rows:
        first = start + next_start * step if count else 0
        stride = step * next_step
        last = first + (count - 1) * stride + 1 if count else 0
        bounds.append((first, min(last, extent), stride))
    starts, stops, steps = zip(*bounds, strict=True)
    return site.emit(Slice(starts, stops, steps), inner.inputs[0])


def _slice_of_concat(node: Node, site: Site) -> Answer:
    joined = made_by(site, node.inputs[0], Concat)
    op = node.op
    if joined is None or not isinstance(joined.op, Concat) or not isinstance(op, Slice):
        return None
    axis, offset = joined.op.axis, 0
    start, stop = op.starts[axis], op.stops[axis]
    for piece in joined.inputs:
        end = offset + piece.shape[axis]
        if offset <= start and stop <= end and start < stop:
            return site.emit(_moved(op, axis, start - offset, stop - offset), piece)
        offset = end
    return None


def _moved(op: Slice, axis: int, start: int, stop: int) -> Slice:
    starts = (*op.starts[:axis], start, *op.starts[axis + 1 :])
    stops = (*op.stops[:axis], stop, *op.stops[axis + 1 :])
    return Slice(starts, stops, op.steps)


def _concat(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, Concat)
    axis = node.op.axis
    pieces: list[Value] = []
    for value in node.inputs:
        inner = made_by(site, value, Concat)
        nested = inner is not None and inner.op == node.op and site.uses(value) == 1
        pieces += inner.inputs if inner is not None and nested else (value,)
    pieces = [piece for piece in pieces if piece.shape[axis]] or pieces[:1]
    pieces = _rejoined(pieces, axis, site)
    if len(pieces) == 1:
        return pieces[0]
    return None if len(pieces) == len(node.inputs) else site.emit(node.op, *pieces)


def _rejoined(pieces: list[Value], axis: int, site: Site) -> list[Value]:
    """Neighbouring slices of one tensor as one slice."""
    result: list[Value] = []
    for piece in pieces:
        joined = _adjacent(result[-1], piece, axis, site) if result else None
        if joined is None:
            result.append(piece)
        else:
            result[-1] = joined
    return result


def _adjacent(a: Value, b: Value, axis: int, site: Site) -> Value | None:
    left, right = made_by(site, a, Slice), made_by(site, b, Slice)
    if left is None or right is None or left.inputs[0] is not right.inputs[0]:
        return None
    first, second = left.op, right.op
    if not isinstance(first, Slice) or not isinstance(second, Slice):
        return None
    if first.steps[axis] != 1 or first.stops[axis] != second.starts[axis]:
        return None
    if _moved(second, axis, 0, 0) != _moved(first, axis, 0, 0):
        return None
    op = _moved(first, axis, first.starts[axis], second.stops[axis])
    return site.emit(op, left.inputs[0])


def _pad_of_pad(node: Node, site: Site) -> Answer:
    inner = made_by(site, node.inputs[0], Pad)
    if inner is None or not isinstance(inner.op, Pad) or not isinstance(node.op, Pad):
        return None
    alike = (node.op.mode, node.op.value) == (inner.op.mode, inner.op.value)
    if not alike or node.op.mode not in (PadMode.CONSTANT, PadMode.REPLICATE):
        return None
    low = tuple(a + b for a, b in zip(inner.op.low, node.op.low, strict=True))
    high = tuple(a + b for a, b in zip(inner.op.high, node.op.high, strict=True))
    return site.emit(Pad(low, high, node.op.mode, node.op.value), inner.inputs[0])


def _take(node: Node, site: Site) -> Answer:
    """Consecutive known rows are a slice."""
    data, indices = node.inputs
    if not known(site, indices) or not isinstance(node.op, Take) or not indices.type.elements:
        return None
    item = site.constant_of(indices)
    assert item is not None
    rows, axis = to_floats(item).reshape(-1), node.op.axis
    step = int(rows[1] - rows[0]) if rows.size > 1 else 1
    wanted = rows[0] + step * np.arange(rows.size)
    if (
        step < 1
        or not np.array_equal(rows, wanted)
        or not 0 <= rows[0] <= rows[-1] < data.shape[axis]
    ):
        return None
    whole = Slice((0,) * data.type.rank, data.shape, (1,) * data.type.rank)
    op = _moved(whole, axis, int(rows[0]), int(rows[-1]) + 1)
    op = Slice(op.starts, op.stops, (*op.steps[:axis], step, *op.steps[axis + 1 :]))
    return reshaped(site, site.emit(op, data), node.output.shape)


def _scatter_nothing(node: Node, site: Site) -> Answer:
    data, indices, updates = node.inputs
    empty = not indices.type.elements or not updates.type.elements
    return data if empty and data.type.elements else None


def _reduce_nothing(node: Node, site: Site) -> Answer:
    x = node.inputs[0]
    if x.type.elements != node.output.type.elements:
        return None
    return reshaped(site, x, node.output.shape)


def _place_of_one(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, ArgMax | ArgMin)
    if node.inputs[0].shape[node.op.axis] != 1:
        return None
    return site.constant(splat(0, node.output.type))


_RULES: Rules = {
    Reshape: (_same_type, _chain, _keep_axes, _around),
    Expand: (_same_type, _chain, _expand_as_reshape),
    Slice: (_same_type, _slice_of_slice, _slice_of_concat),
    Concat: (_concat,),
    Pad: (_same_type, _pad_of_pad),
    Flip: (_flip,),
    Take: (_take,),
    ScatterElements: (_scatter_nothing,),
    ScatterNd: (_scatter_nothing,),
    ArgMax: (_place_of_one,),
    ArgMin: (_place_of_one,),
    **dict.fromkeys(_REDUCE, (_reduce_nothing,)),
}
