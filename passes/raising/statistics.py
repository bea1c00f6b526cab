"""Means, squares and spreads of a tensor along its axes, as models spell them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optc.ir.graph import Node, Value
from optc.ir.ops import Expand, Op, ReduceMean, ReduceSum, ew
from optc.ir.ops.reduction import Reduce
from optc.passes.matching import is_close, made_by, number, scaled, shifted
from optc.passes.rewrite import Site

Axes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reduced:
    """A reduction of `source` along `axes` that leaves them with extent 1, times `factor`."""

    source: Value
    axes: Axes
    factor: float = 1.0


def reduced(site: Site, value: Value, kind: type[Op]) -> Reduced | None:
    """The reduction behind `value`, also where it was expanded again."""
    value = unexpanded(site, value)
    node = made_by(site, value, kind)
    if node is None or not isinstance(node.op, Reduce) or not node.op.keepdims or not node.op.axes:
        return None
    return Reduced(node.inputs[0], node.op.axes)


def unexpanded(site: Site, value: Value) -> Value:
    """`value` as it was before Expand."""
    node = made_by(site, value, Expand)
    return value if node is None else node.inputs[0]


def mean(site: Site, value: Value) -> Reduced | None:
    """A mean, or a sum times a number: factor 1 is the mean, n / (n - 1) the unbiased variance."""
    found = reduced(site, value, ReduceMean)
    if found is not None:
        return found
    total, factor = scaled(site, unexpanded(site, value))
    found = reduced(site, total, ReduceSum)
    if found is None:
        return None
    count = math.prod(found.source.shape[axis] for axis in found.axes)
    return Reduced(found.source, found.axes, factor * count)


def squared(site: Site, value: Value) -> Value | None:
    """x, where value = x * x."""
    node = made_by(site, value, ew.Mul, ew.Pow)
    if node is None:
        return None
    a, b = node.inputs
    if isinstance(node.op, ew.Pow):
        return a if number(site, b) == 2 else None
    return a if a is b else None


def is_mean(found: Reduced | None) -> bool:
    """Whether a reduction divides by the number of elements."""
    return found is not None and is_close(found.factor, 1.0)


@dataclass(frozen=True, slots=True)
class Quotient:
    """x / sqrt(variance + epsilon) * the product of `rest`."""

    x: Value
    variance: Value
    epsilon: float
    rest: tuple[Value, ...]


def quotient(site: Site, node: Node) -> Quotient | None:
    """A product or quotient with one inverse root in it, its first other factor being x."""
    upper, roots = _numerators(site, node.output, node)
    if len(roots) != 1 or not upper:
        return None
    variance, epsilon = shifted(site, unexpanded(site, roots[0]))
    return Quotient(upper[0], variance, epsilon, tuple(upper[1:]))


def _numerators(site: Site, value: Value, node: Node | None) -> tuple[list[Value], list[Value]]:
    """Factors of a product, and what stands under inverse square roots in it."""
    if node is None:
        return [value], []
    a, b = node.inputs
    if isinstance(node.op, ew.Div):
        root = inverse_root(site, b, divides=True)
        if root is None:
            return [value], []
        upper, roots = _numerators(site, a, _inner(site, a))
        return upper, [*roots, root]
    upper, roots = [], []
    for operand in (a, b):
        root = inverse_root(site, operand, divides=False)
        if root is not None:
            roots.append(root)
            continue
        more, deeper = _numerators(site, operand, _inner(site, operand))
        upper, roots = upper + more, roots + deeper
    return upper, roots


def _inner(site: Site, value: Value) -> Node | None:
    return made_by(site, value, ew.Mul, ew.Div) if site.uses(value) == 1 else None


def inverse_root(site: Site, value: Value, *, divides: bool) -> Value | None:
    """v, where value is 1 / sqrt(v), or sqrt(v) when something is divided by it."""
    value = unexpanded(site, value)
    if divides:
        node = made_by(site, value, ew.Sqrt)
        node = node or _power(site, value, 0.5)
        return None if node is None else node.inputs[0]
    node = made_by(site, value, ew.Rsqrt) or _power(site, value, -0.5)
    if node is not None:
        return node.inputs[0]
    if (inverse := made_by(site, value, ew.Reciprocal)) is not None:
        return inverse_root(site, inverse.inputs[0], divides=True)
    return None


def _power(site: Site, value: Value, exponent: float) -> Node | None:
    node = made_by(site, value, ew.Pow)
    return node if node is not None and number(site, node.inputs[1]) == exponent else None
