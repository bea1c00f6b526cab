"""What each ATen op is in the IR: one table per family, and the look-up over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch._ops import OpOverload

from optc.ir.capture.aten import (
    activation,
    antialias,
    arithmetic,
    complex_pairs,
    contraction,
    creation,
    fourier,
    indexing,
    movement,
    normalization,
    ordering,
    padding,
    pooling,
    quantized,
    recurrent,
    reduction,
    resize,
    scatter,
)
from optc.ir.capture.refusal import Refusal

Rule = Callable[..., Any]

RULES: Mapping[OpOverload, Rule] = MappingProxyType(
    {
        **arithmetic.RULES,
        **activation.RULES,
        **movement.RULES,
        **padding.RULES,
        **indexing.RULES,
        **scatter.RULES,
        **reduction.RULES,
        **ordering.RULES,
        **contraction.RULES,
        **pooling.RULES,
        **normalization.RULES,
        **resize.RULES,
        **antialias.RULES,
        **recurrent.RULES,
        **creation.RULES,
        **fourier.RULES,
        **complex_pairs.FROM_REAL,
    }
)
COMPLEX_RULES: Mapping[OpOverload, Rule] = MappingProxyType(
    {**complex_pairs.RULES, **fourier.COMPLEX}
)
FACTORIES: Mapping[OpOverload, Rule] = creation.FACTORIES


def rule(target: OpOverload) -> Rule | None:
    """The rule for an op on real tensors, or None."""
    if target.namespace == quantized.NAMESPACE:
        return quantized.rule(target)
    return RULES.get(target)


def complex_rule(target: OpOverload) -> Rule:
    """The rule for an op on complex tensors; one that only moves elements runs on both parts."""
    if target in COMPLEX_RULES:
        return COMPLEX_RULES[target]
    if target in RULES and target in complex_pairs.PARTWISE:
        return complex_pairs.partwise(RULES[target])
    raise Refusal("there is no rule for it on complex tensors")
