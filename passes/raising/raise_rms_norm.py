"""RMS norm from mean squares (Zhang and Sennrich 2019), as Llama, T5 and Gemma spell it."""

from __future__ import annotations

from dataclasses import dataclass

from optc.ir.graph import Node
from optc.ir.module import Module
from optc.ir.ops import RmsNorm, ew
from optc.passes.base import Effect, Pass, PassContext
from optc.passes.raising.norms import is_last, take_weight, without_upcast
from optc.passes.raising.statistics import is_mean, mean, quotient, squared
from optc.passes.rewrite import Answer, Miss, Rules, Site, rewrite

_CODE = "N0306"


@dataclass(frozen=True)
class RaiseRmsNorm(Pass):
    """Recognise RMS norm: x / sqrt(mean(x^2) + epsilon), then the weight.

    Where x was cast to f32 for it and the result is cast back, both casts go: kernels compute
    half precision in f32. Run after raise-layer-norm, of whose second half this is the formula.
    """

    name = "raise-rms-norm"
    effect = Effect.ROUNDING

    def run(self, module: Module, ctx: PassContext) -> Module:
        """The module with RMS norms."""
        return rewrite(module, _RULES, ctx, code=_CODE)


def _norm(node: Node, site: Site) -> Answer:
    found = quotient(site, node)
    squares = None if found is None else mean(site, found.variance)
    x = None if squares is None else squared(site, squares.source)
    if found is None or squares is None or x is None or x not in (found.x, *found.rest):
        return None
    if not is_mean(squares):
        return Miss("the squares are summed, or divided by another number than there are")
    if not is_last(squares.axes, x.type.rank):
        return Miss(f"it normalises axes {squares.axes}, not the last ones")
    result = site.emit(RmsNorm(len(squares.axes), found.epsilon), x)
    others = [found.x, *found.rest]
    others.remove(x)
    for factor in others:
        result = site.emit(ew.Mul(), result, factor)
    return result if result.type == node.output.type else None


_RULES: Rules = {
    ew.Mul: (_norm, take_weight(RmsNorm)),
    ew.Div: (_norm,),
    ew.Cast: (without_upcast(RmsNorm),),
}
