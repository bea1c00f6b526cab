"""SiLU and the sigmoid in it (Elfwing et al. 2018; as swish, Ramachandran et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import either, made_by, shifted
from optc.passes.rewrite import Answer, Rules, Site, rewrite

_CODE = "N0306"


@dataclass(frozen=True)
class RaiseSilu(Pass):
    """Recognise sigmoid, 1 / (1 + exp(-x)), and SiLU, x * sigmoid(x)."""

    name = "raise-silu"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with sigmoids and SiLUs."""
        return rewrite(module, _RULES, ctx, code=_CODE)


def _logistic(site: Site, value: Value) -> Value | None:
    """x, where value = 1 + exp(-x)."""
    power, one = shifted(site, value)
    exponential = made_by(site, power, ew.Exp)
    if one != 1 or exponential is None:
        return None
    negation = made_by(site, exponential.inputs[0], ew.Neg)
    return None if negation is None else negation.inputs[0]


def _reciprocal(node: Node, site: Site) -> Answer:
    x = _logistic(site, node.inputs[0])
    return None if x is None else site.emit(ew.Sigmoid(), x)


def _quotient(node: Node, site: Site) -> Answer:
    x = _logistic(site, node.inputs[1])
    if x is None:
        return None
    if x is node.inputs[0]:
        return site.emit(ew.Silu(), x)
    return site.emit(ew.Mul(), node.inputs[0], site.emit(ew.Sigmoid(), x))


def _product(node: Node, site: Site) -> Answer:
    for x, gate in either(node):
        sigmoid = made_by(site, gate, ew.Sigmoid)
        if sigmoid is not None and sigmoid.inputs[0] is x:
            return site.emit(ew.Silu(), x)
    return None


_RULES: Rules = {ew.Reciprocal: (_reciprocal,), ew.Div: (_quotient,), ew.Mul: (_product,)}
