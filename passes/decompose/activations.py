"""Activations as the arithmetic that defines them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optc.ir.graph import Node, Value
from optc.ir.ops import Op, ew
from optc.passes.rewrite import Answer, Rule, Site


def like(site: Site, x: Value, number: float) -> Value:
    """A number in the dtype of `x`."""
    return site.builder.splat(number, x.type.with_shape(()))


def _silu(node: Node, site: Site) -> Answer:
    x = node.inputs[0]
    return site.emit(ew.Mul(), x, site.emit(ew.Sigmoid(), x))


def _sigmoid(node: Node, site: Site) -> Answer:
    x = node.inputs[0]
    power = site.emit(ew.Exp(), site.emit(ew.Neg(), x))
    return site.emit(ew.Reciprocal(), site.emit(ew.Add(), power, like(site, x, 1.0)))


def _hard_sigmoid(node: Node, site: Site) -> Answer:
    x = node.inputs[0]
    clamped = site.emit(ew.Clamp(0.0, 6.0), site.emit(ew.Add(), x, like(site, x, 3.0)))
    return site.emit(ew.Mul(), clamped, like(site, x, 1 / 6))


def _hard_swish(node: Node, site: Site) -> Answer:
    x = node.inputs[0]
    return site.emit(ew.Mul(), x, site.emit(ew.HardSigmoid(), x))


def _gelu(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, ew.Gelu)
    x = node.inputs[0]
    if node.op.tanh:
        cubic = site.emit(ew.Mul(), site.emit(ew.Mul(), x, x), like(site, x, 0.044715))
        inner = site.emit(ew.Mul(), x, site.emit(ew.Add(), cubic, like(site, x, 1.0)))
        scaled = site.emit(ew.Mul(), inner, like(site, x, math.sqrt(2 / math.pi)))
        curve = site.emit(ew.Tanh(), scaled)
    else:
        curve = site.emit(ew.Erf(), site.emit(ew.Mul(), x, like(site, x, math.sqrt(0.5))))
    half = site.emit(ew.Mul(), x, like(site, x, 0.5))
    return site.emit(ew.Mul(), half, site.emit(ew.Add(), curve, like(site, x, 1.0)))


def _leaky_relu(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, ew.LeakyRelu)
    x = node.inputs[0]
    below = site.emit(ew.Mul(), x, like(site, x, node.op.slope))
    return site.emit(ew.Where(), _is_positive(site, x), x, below)


def _elu(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, ew.Elu)
    x, op = node.inputs[0], node.op
    below = site.emit(ew.Expm1(), site.emit(ew.Mul(), x, like(site, x, op.input_scale)))
    below = site.emit(ew.Mul(), below, like(site, x, op.alpha * op.scale))
    above = site.emit(ew.Mul(), x, like(site, x, op.scale))
    return site.emit(ew.Where(), _is_positive(site, x), above, below)


def _softplus(node: Node, site: Site) -> Answer:
    assert isinstance(node.op, ew.Softplus)
    x, op = node.inputs[0], node.op
    scaled = site.emit(ew.Mul(), x, like(site, x, op.beta))
    curve = site.emit(ew.Log1p(), site.emit(ew.Exp(), scaled))
    curve = site.emit(ew.Mul(), curve, like(site, x, 1 / op.beta))
    large = site.emit(ew.Greater(), scaled, like(site, x, op.threshold))
    return site.emit(ew.Where(), large, x, curve)


def _is_positive(site: Site, x: Value) -> Value:
    return site.emit(ew.Greater(), x, like(site, x, 0.0))


RULES: Mapping[type[Op], Rule] = {
    ew.Silu: _silu,
    ew.Sigmoid: _sigmoid,
    ew.HardSigmoid: _hard_sigmoid,
    ew.HardSwish: _hard_swish,
    ew.Gelu: _gelu,
    ew.LeakyRelu: _leaky_relu,
    ew.Elu: _elu,
    ew.Softplus: _softplus,
}
