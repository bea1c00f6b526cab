"""Products and polynomials read off elementwise nodes, however the model spells them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optc.ir.graph import Value
from optc.ir.ops import Op, ew
from optc.passes.matching import is_close, made_by, number
from optc.passes.rewrite import Site

Polynomial = dict[int, float]  # coefficient by power
_DEPTH = 8


def factors(
    site: Site, value: Value, stop: Value | None = None, depth: int = 0
) -> tuple[float, list[Value]]:
    """(c, [a, b, ...]) such that value = c * a * b * ...; `stop` is not taken apart."""
    constant = number(site, value)
    if constant is not None:
        return float(constant), []
    node = made_by(site, value, ew.Mul, ew.Div, ew.Neg)
    if node is None or value is stop or depth > _DEPTH:
        return 1.0, [value]
    sign = -1.0 if isinstance(node.op, ew.Neg) else 1.0
    left, atoms = factors(site, node.inputs[0], stop, depth + 1)
    if isinstance(node.op, ew.Neg):
        return sign * left, atoms
    if isinstance(node.op, ew.Div):
        divisor = number(site, node.inputs[1])
        return (left / divisor, atoms) if divisor else (1.0, [value])
    right, others = factors(site, node.inputs[1], stop, depth + 1)
    return left * right, atoms + others


def products(site: Site, value: Value, depth: int = 0) -> Iterator[Value]:
    """Every value that `value` is a multiple of: operands of its products, at all levels."""
    yield value
    node = made_by(site, value, ew.Mul, ew.Div, ew.Neg)
    if node is None or depth > _DEPTH:
        return
    for operand in node.inputs[:1] if isinstance(node.op, ew.Div) else node.inputs:
        if number(site, operand) is None:
            yield from products(site, operand, depth + 1)


def polynomial(site: Site, value: Value, x: Value, depth: int = 0) -> Polynomial | None:
    """`value` as a polynomial in `x`, or None if it is none."""
    if value is x:
        return {1: 1.0}
    constant = number(site, value)
    if constant is not None:
        return {0: float(constant)}
    node = made_by(site, value, ew.Add, ew.Sub, ew.Mul, ew.Div, ew.Neg, ew.Pow)
    if node is None or depth > _DEPTH:
        return None
    terms = [polynomial(site, operand, x, depth + 1) for operand in node.inputs]
    left, right = terms[0], terms[-1]
    return None if left is None or right is None else _joined(node.op, left, right)


def _joined(op: Op, left: Polynomial, right: Polynomial) -> Polynomial | None:
    number = right.get(0, 0.0) if set(right) == {0} else None
    match op:
        case ew.Neg():
            return _sum({}, left, -1.0)
        case ew.Add():
            return _sum(left, right, 1.0)
        case ew.Sub():
            return _sum(left, right, -1.0)
        case ew.Mul():
            return _product(left, right)
        case ew.Div() if number:
            return _product(left, {0: 1.0 / number})
        case ew.Pow() if number in (2, 3):
            return _product(left, left if number == 2 else _product(left, left))
    return None


def is_polynomial(found: Polynomial | None, wanted: Mapping[int, float]) -> bool:
    """Whether the coefficients are those wanted, within what hand-written models round off."""
    if found is None:
        return False
    kept = {power: c for power, c in found.items() if c}
    return kept.keys() == wanted.keys() and all(is_close(kept[p], c) for p, c in wanted.items())


def _sum(left: Polynomial, right: Polynomial, sign: float) -> Polynomial:
    powers = sorted(set(left) | set(right))
    return {power: left.get(power, 0.0) + sign * right.get(power, 0.0) for power in powers}


def _product(left: Polynomial, right: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for a, x in left.items():
        for b, y in right.items():
            result[a + b] = result.get(a + b, 0.0) + x * y
    return result
