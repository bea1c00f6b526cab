"""Small questions that rewrite rules ask about what stands behind a value."""

from __future__ import annotations

import math
from collections.abc import Iterator

from optc.ir.graph import Node, Value
from optc.ir.ops import Expand, Op, Reshape, ew
from optc.ir.types import TensorType
from optc.passes.rewrite import Site

Pair = tuple[Value, Value]
TOLERANCE = 1e-3  # relative; hand-written models spell sqrt(2 / pi) with as few as four digits


def made_by(site: Site, value: Value, *ops: type[Op]) -> Node | None:
    """The node that computes `value` if its op is one of `ops`."""
    node = site.producer(value)
    return node if node is not None and isinstance(node.op, ops) else None


def number(site: Site, value: Value) -> float | int | None:
    """The one number that all elements of a constant have, seen through Expand and Reshape."""
    while (node := made_by(site, value, Expand, Reshape)) is not None:
        value = node.inputs[0]
    item = site.constant_of(value)
    found = None if item is None else item.splat
    return None if isinstance(found, bool) else found


def is_close(found: float | None, wanted: float) -> bool:
    """Whether a coefficient of a model is meant to be `wanted`."""
    return found is not None and math.isclose(found, wanted, rel_tol=TOLERANCE)


def either(node: Node) -> Iterator[Pair]:
    """The operands of a binary node, both ways round."""
    a, b = node.inputs
    yield a, b
    yield b, a


def scaled(site: Site, value: Value) -> tuple[Value, float]:
    """(x, c) such that value = x * c, through products with and quotients by numbers."""
    factor = 1.0
    while (node := made_by(site, value, ew.Mul, ew.Div, ew.Neg)) is not None:
        step = _scaled_once(site, node)
        if step is None or step[0].type != value.type:
            break
        value, factor = step[0], factor * step[1]
    return value, factor


def _scaled_once(site: Site, node: Node) -> tuple[Value, float] | None:
    if isinstance(node.op, ew.Neg):
        return node.inputs[0], -1.0
    a, b = node.inputs
    left, right = number(site, a), number(site, b)
    if isinstance(node.op, ew.Div):
        return (a, 1.0 / right) if right else None
    if right is not None:
        return a, float(right)
    return (b, float(left)) if left is not None else None


def shifted(site: Site, value: Value) -> tuple[Value, float]:
    """(x, c) such that value = x + c, for one addition or subtraction of a number."""
    node = made_by(site, value, ew.Add, ew.Sub)
    if node is None:
        return value, 0.0
    a, b = node.inputs
    left, right = number(site, a), number(site, b)
    if right is not None and a.type == value.type:
        return a, float(right) if isinstance(node.op, ew.Add) else -float(right)
    if left is not None and isinstance(node.op, ew.Add) and b.type == value.type:
        return b, float(left)
    return value, 0.0


def fit(site: Site, value: Value, type: TensorType) -> Value:
    """`value` broadcast to `type`."""
    return value if value.type == type else site.emit(Expand(type.shape), value)


def reshaped(site: Site, value: Value, shape: tuple[int, ...]) -> Value:
    """`value` in another shape; itself when it has that shape."""
    return value if value.shape == shape else site.emit(Reshape(shape), value)
