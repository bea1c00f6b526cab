"""Hard-swish and hard-sigmoid from clamps (Howard et al. 2019, section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import either, is_close, made_by
from optc.passes.raising.algebra import factors, is_polynomial, polynomial
from optc.passes.rewrite import Answer, Rules, Site, rewrite

_CODE = "N0306"


@dataclass(frozen=True)
class RaiseHardSwish(Pass):
    """Recognise hard-sigmoid, clamp(x + 3, 0, 6) / 6, and hard-swish, x times that."""

    name = "raise-hard-swish"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with hard-swishes and hard-sigmoids."""
        return rewrite(module, _RULES, ctx, code=_CODE)


def _product(node: Node, site: Site) -> Answer:
    coefficient, atoms = factors(site, node.output)
    if not is_close(coefficient, 1 / 6):
        return None
    for gate in atoms:
        x = _clamped(site, gate, 3.0, 6.0)
        if x is None or x.type != node.output.type:
            continue
        if len(atoms) == 1:
            return site.emit(ew.HardSigmoid(), x)
        if len(atoms) == 2 and x in atoms:
            return site.emit(ew.HardSwish(), x)
    return None


def _clamped(site: Site, value: Value, offset: float, limit: float) -> Value | None:
    """x, where value = clamp(x * limit / 6 + offset, 0, limit)."""
    clamp = made_by(site, value, ew.Clamp)
    if clamp is None or clamp.op != ew.Clamp(0.0, limit):
        return None
    add = made_by(site, clamp.inputs[0], ew.Add, ew.Sub)
    if add is None:
        return None
    for operand in add.inputs:
        for x in (operand, *_under(site, operand)):
            if is_polynomial(polynomial(site, clamp.inputs[0], x), {0: offset, 1: limit / 6}):
                return x
    return None


def _under(site: Site, value: Value) -> tuple[Value, ...]:
    node = made_by(site, value, ew.Mul, ew.Div)
    return () if node is None else node.inputs


def _clamp(node: Node, site: Site) -> Answer:
    """clamp(x / 6 + 1 / 2, 0, 1)."""
    x = _clamped(site, node.output, 0.5, 1.0)
    return None if x is None else site.emit(ew.HardSigmoid(), x)


def _gated(node: Node, site: Site) -> Answer:
    for x, gate in either(node):
        sigmoid = made_by(site, gate, ew.HardSigmoid)
        if sigmoid is not None and sigmoid.inputs[0] is x:
            return site.emit(ew.HardSwish(), x)
    return None


_RULES: Rules = {ew.Mul: (_gated, _product), ew.Div: (_product,), ew.Clamp: (_clamp,)}
