"""Softmax and log-softmax from exponentials and sums."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.graph import Node, Value
from optc.ir.module import Module
from optc.ir.ops import LogSoftmax, ReduceMax, ReduceSum, Softmax, ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.matching import made_by
from optc.passes.raising.norms import without_upcast
from optc.passes.raising.statistics import reduced
from optc.passes.rewrite import Answer, Miss, Rules, Site, rewrite

_CODE = "N0306"


@dataclass(frozen=True)
class RaiseSoftmax(Pass):
    """Recognise softmax: exp(x - max) / sum(exp(x - max)), with or without the maximum.

    And log-softmax, as x - max - log(sum(exp(x - max))) or as the logarithm of a softmax. A
    softmax of half-precision data that is cast to f32 and back is computed without the casts.
    """

    name = "raise-softmax"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with softmax ops."""
        return rewrite(module, _RULES, ctx, code=_CODE)


def _quotient(node: Node, site: Site) -> Answer:
    power, divisor = node.inputs
    return _softmax(site, power, divisor)


def _product(node: Node, site: Site) -> Answer:
    for power, inverse in (node.inputs, node.inputs[::-1]):
        reciprocal = made_by(site, inverse, ew.Reciprocal)
        if reciprocal is not None:
            return _softmax(site, power, reciprocal.inputs[0])
    return None


def _softmax(site: Site, power: Value, divisor: Value) -> Answer:
    exponential = made_by(site, power, ew.Exp)
    total = reduced(site, divisor, ReduceSum)
    if exponential is None or total is None or total.source is not power:
        return None
    if len(total.axes) != 1:
        return Miss(f"the sum runs over axes {total.axes}, not over one")
    if site.uses(power) > 2:
        return Miss("the exponential has other users")
    return site.emit(
        Softmax(total.axes[0]), _without_maximum(site, exponential.inputs[0], total.axes)
    )


def _without_maximum(site: Site, value: Value, axes: tuple[int, ...]) -> Value:
    """x, where value = x - max(x) along `axes`: softmax subtracts it by itself."""
    difference = made_by(site, value, ew.Sub)
    if difference is None:
        return value
    x, subtracted = difference.inputs
    found = reduced(site, subtracted, ReduceMax)
    same = found is not None and found.source is x and found.axes == axes
    return x if same and x.type == value.type else value


def _log_difference(node: Node, site: Site) -> Answer:
    shifted, subtracted = node.inputs
    logarithm = made_by(site, subtracted, ew.Log)
    total = None if logarithm is None else reduced(site, logarithm.inputs[0], ReduceSum)
    if total is None or shifted.type != node.output.type:
        return None
    exponential = made_by(site, total.source, ew.Exp)
    if exponential is None or exponential.inputs[0] is not shifted or len(total.axes) != 1:
        return None
    return site.emit(LogSoftmax(total.axes[0]), _without_maximum(site, shifted, total.axes))


def _log(node: Node, site: Site) -> Answer:
    softmax = made_by(site, node.inputs[0], Softmax)
    if softmax is None or type(softmax.op) is not Softmax:
        return None
    if site.uses(softmax.output) > 1:
        return Miss("the softmax has other users")
    assert isinstance(softmax.op, Softmax)
    return site.emit(LogSoftmax(softmax.op.axis), softmax.inputs[0])


_RULES: Rules = {
    ew.Div: (_quotient,),
    ew.Mul: (_product,),
    ew.Sub: (_log_difference,),
    ew.Log: (_log,),
    ew.Cast: (without_upcast(Softmax, LogSoftmax),),
}
