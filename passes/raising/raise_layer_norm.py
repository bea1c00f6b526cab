"""Layer norm from means and differences (Ba, Kiros and Hinton 2016, equation 4)."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import LayerNorm, ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import made_by, shifted
from optc.passes.raising.norms import is_last, take_bias, take_weight, without_upcast
from optc.passes.raising.statistics import (
    Quotient,
    Reduced,
    inverse_root,
    is_mean,
    mean,
    quotient,
    squared,
    unexpanded,
)
from optc.passes.rewrite import Answer, Miss, Rules, Site, rewrite

_CODE = "N0306"


@dataclass(frozen=True)
class RaiseLayerNorm(Pass):
    """Recognise layer norm: (x - mean) / sqrt(variance + epsilon), then weight and bias.

    The variance may be the mean of squared differences or mean(x^2) - mean(x)^2, the quotient a
    product with rsqrt or a reciprocal, and the weight may be multiplied in at any place.
    """

    name = "raise-layer-norm"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with layer norms."""
        return rewrite(module, _RULES, ctx, code=_CODE)


def _norm(node: Node, site: Site) -> Answer:
    found = quotient(site, node)
    if found is None:
        return _other_epsilon(node, site)
    for centred in (found.x, *found.rest):
        about = _centred(site, centred)
        if about is not None:
            return _raised(node, site, found, centred, about)
    return None


def _raised(node: Node, site: Site, found: Quotient, centred: Value, about: Reduced) -> Answer:
    variance = _variance(site, found.variance, about)
    if variance is None:
        return None
    if not is_mean(variance):
        return Miss("the variance does not divide by the number of elements")
    if not is_last(about.axes, about.source.type.rank):
        return Miss(f"it normalises axes {about.axes}, not the last ones")
    if about.source.type != centred.type:
        return None
    result = site.emit(LayerNorm(len(about.axes), found.epsilon), about.source)
    for factor in (found.x, *found.rest):
        if factor is not centred:
            result = site.emit(ew.Mul(), result, factor)
    return result if result.type == node.output.type else None


def _centred(site: Site, value: Value) -> Reduced | None:
    """The mean that `value` = x - mean(x) subtracts."""
    node = made_by(site, value, ew.Sub)
    if node is None:
        return None
    found = mean(site, node.inputs[1])
    return (
        found if found is not None and is_mean(found) and found.source is node.inputs[0] else None
    )


def _variance(site: Site, value: Value, about: Reduced) -> Reduced | None:
    """Mean of (x - mean)^2, or mean(x^2) - mean^2, along the same axes."""
    found = mean(site, value)
    if found is not None and found.axes == about.axes:
        difference = squared(site, found.source)
        own = None if difference is None else _centred(site, difference)
        return found if own == about else None
    node = made_by(site, value, ew.Sub)
    if node is None:
        return None
    squares = mean(site, node.inputs[0])
    centre = squared(site, node.inputs[1])
    if squares is None or centre is None or squares.axes != about.axes:
        return None
    same = squared(site, squares.source) is about.source and mean(site, centre) == about
    return squares if same else None


def _other_epsilon(node: Node, site: Site) -> Answer:
    """(x - mean) / (sqrt(variance) + epsilon) is another formula; say so."""
    if not isinstance(node.op, ew.Div) or _centred(site, node.inputs[0]) is None:
        return None
    deviation, epsilon = shifted(site, unexpanded(site, node.inputs[1]))
    if not epsilon or inverse_root(site, deviation, divides=True) is None:
        return None
    return Miss("epsilon is added to the deviation, not to the variance")


_RULES: Rules = {
    ew.Mul: (_norm, take_weight(LayerNorm)),
    ew.Div: (_norm,),
    ew.Add: (take_bias,),
    ew.Cast: (without_upcast(LayerNorm),),
}
