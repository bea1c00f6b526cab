"""GELU from erf, or from its tanh approximation (Hendrycks and Gimpel 2016)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import is_close, made_by, scaled, shifted
from optc.passes.raising.algebra import factors, is_polynomial, polynomial, products
from optc.passes.rewrite import Answer, Miss, Site, rewrite

_CODE = "N0306"
_ERF: Mapping[int, float] = {1: math.sqrt(0.5)}
_TANH: Mapping[int, float] = {1: math.sqrt(2 / math.pi), 3: 0.044715 * math.sqrt(2 / math.pi)}


@dataclass(frozen=True)
class RaiseGelu(Pass):
    """Recognise GELU: x / 2 * (1 + erf(x / sqrt(2))), or with tanh and a cubic polynomial.

    Factors may stand in any order and the polynomial in any form; coefficients may be off by a
    thousandth.
    """

    name = "raise-gelu"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with GELU ops."""
        return rewrite(module, {ew.Mul: (_gelu,), ew.Div: (_gelu,)}, ctx, code=_CODE)


def _gelu(node: Node, site: Site) -> Answer:
    for atom in factors(site, node.output)[1]:
        found = _one_plus(site, atom)
        if found is None:
            continue
        curve, offset = found
        return _raised(node, site, atom, curve, offset)
    return None


def _raised(node: Node, site: Site, atom: Value, curve: Node, offset: float) -> Answer:
    """`atom` is offset * (1 + curve(z)); the rest must be x / 2 / offset."""
    tanh = isinstance(curve.op, ew.Tanh)
    wanted = _TANH if tanh else _ERF
    for x in products(site, node.output):
        coefficient, atoms = factors(site, node.output, x)
        if {*atoms} != {x, atom} or len(atoms) != 2 or x.type != node.output.type:
            continue
        argument = polynomial(site, curve.inputs[0], x)
        if argument is None:
            continue
        if not is_close(coefficient * offset, 0.5):
            return None  # the half may follow
        if not is_polynomial(argument, wanted):
            return Miss("its coefficients are not those of GELU")
        return site.emit(ew.Gelu(tanh), x)
    return None


def _one_plus(site: Site, value: Value) -> tuple[Node, float] | None:
    """(f, d), where value = d * (1 + f(z)) and f is erf or tanh."""
    inner, offset = shifted(site, value)
    curve, factor = scaled(site, inner)
    node = made_by(site, curve, ew.Erf, ew.Tanh)
    return (node, offset) if node is not None and is_close(factor, offset) else None
