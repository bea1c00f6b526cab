"""Transposes that cancel, that move nothing, or that can be taken over by what feeds them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import (
    BINARY,
    QUANTIZATION,
    UNARY,
    Concat,
    Flip,
    Op,
    Pad,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMin,
    Reshape,
    Slice,
    Transpose,
    ew,
)  # fmt: skip
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import made_by
from optc.passes.rewrite import Answer, Rules, Site, rewrite
from optc.passes.weights import in_shape, known, transposed

Perm = tuple[int, ...]
_DEPTH = 24  # ops that a transpose may be pulled through
_ELEMENTWISE = (*UNARY, *BINARY, *QUANTIZATION, ew.Where)


@dataclass(frozen=True)
class EliminateTransposes(Pass):
    """Cancel transposes: pairs of them, and those that only move axes of extent 1.

    A transpose is pulled up through elementwise ops, slices, pads, concats, maxima and minima
    where it meets others above and fewer elements are moved in the end than before.
    """

    name = "eliminate-transposes"
    effect = Effect.EXACT

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with fewer elements transposed."""
        return rewrite(module, _RULES, ctx, code="N0302")


def _perm(op: Op) -> Perm:
    assert isinstance(op, Transpose)
    return op.perm


def _idle(node: Node, site: Site) -> Answer:
    """The identity, and what only moves extents of 1."""
    x, perm = node.inputs[0], _perm(node.op)
    if perm == tuple(range(len(perm))):
        return x
    idle = not Transpose(perm).moves(x.shape)
    return site.emit(Reshape(node.output.shape), x) if idle else None


def _pair(node: Node, site: Site) -> Answer:
    inner = made_by(site, node.inputs[0], Transpose)
    if inner is None:
        return None
    return site.emit(Transpose(after(_perm(inner.op), _perm(node.op))), inner.inputs[0])


def after(first: Perm, second: Perm) -> Perm:
    """The permutation that does `first`, then `second`."""
    return tuple(first[axis] for axis in second)


def _of_constant(node: Node, site: Site) -> Answer:
    item = site.constant_of(node.inputs[0])
    if item is None or not known(site, node.inputs[0]):
        return None
    return site.constant(transposed(item, _perm(node.op)), node.inputs[0].hint)


def _pull(node: Node, site: Site) -> Answer:
    """Ask the producers for their transposed result, and take it if that moves less."""
    pull = _Pull(site)
    x = node.inputs[0]
    if site.producer(x) is None or made_by(site, x, Transpose) is not None:
        return None
    result = pull.up(x, _perm(node.op), 0)
    return result if pull.moved < node.output.type.elements else None


class _Pull:
    """One attempt; `moved` counts the elements that new transposes move, less those removed."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.moved = 0
        self.done: dict[tuple[Value, Perm], Value] = {}

    def up(self, value: Value, perm: Perm, depth: int) -> Value:
        """`value` transposed: by other means if there are any, else by a new transpose."""
        if (value, perm) not in self.done:
            result = self.through(value, perm, depth)
            self.done[value, perm] = self.here(value, perm) if result is None else result
        return self.done[value, perm]

    def here(self, value: Value, perm: Perm) -> Value:
        self.moved += value.type.elements
        return self.site.emit(Transpose(perm), value)

    def through(self, value: Value, perm: Perm, depth: int) -> Value | None:
        item, node = self.site.constant_of(value), self.site.producer(value)
        if item is not None and known(self.site, value):
            return self.site.constant(transposed(item, perm), value.hint)
        if node is None or depth > _DEPTH:
            return None
        if isinstance(node.op, Transpose):
            return self.joined(node, perm)
        if self.site.uses(value) > 1 or len(node.outputs) > 1:
            return None
        op = _permuted(node.op, perm)
        if op is None:
            return None
        return self.site.emit(op, *(self.operand(x, perm, depth + 1) for x in node.inputs))

    def joined(self, inner: Node, perm: Perm) -> Value:
        source, both = inner.inputs[0], after(_perm(inner.op), perm)
        if self.site.uses(inner.output) == 1:
            self.moved -= source.type.elements
        if both == tuple(range(len(both))):
            return source
        return self.here(source, both)

    def operand(self, value: Value, perm: Perm, depth: int) -> Value:
        """An operand, which may have fewer axes than the result it is broadcast to."""
        missing = len(perm) - value.type.rank
        if missing == len(perm):
            return value
        if missing:
            shape = (1,) * missing + value.shape
            item = self.site.constant_of(value)
            if item is not None and known(self.site, value):
                value = self.site.constant(in_shape(item, shape), value.hint)
            else:
                value = self.site.emit(Reshape(shape), value)
        return self.up(value, perm, depth)


def _permuted(op: Op, perm: Perm) -> Op | None:
    """The op that does to transposed inputs what `op` does to plain ones."""
    if isinstance(op, _ELEMENTWISE):
        return op
    match op:
        case Concat():
            return replace(op, axis=perm.index(op.axis))
        case Slice(starts, stops, steps):
            return Slice(after(starts, perm), after(stops, perm), after(steps, perm))
        case Pad(low, high):
            return replace(op, low=after(low, perm), high=after(high, perm))
        case Flip(axes):
            return Flip(tuple(sorted(perm.index(axis) for axis in axes)))
        case ReduceMax() | ReduceMin() | ReduceAny() | ReduceAll() if op.keepdims:
            return replace(op, axes=tuple(sorted(perm.index(axis) for axis in op.axes)))
    return None


_RULES: Rules = {Transpose: (_idle, _pair, _of_constant, _pull)}
