"""ATen rules: activations that the IR has as one op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.aten.arithmetic import unary
from optc.ir.capture.context import Context, require
from optc.ir.capture.refusal import RANDOM, Refusal
from optc.ir.constant import Scalar
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import ew

aten = torch.ops.aten


def gelu(ctx: Context, x: Value, approximate: str = "none") -> Value:
    """x * Phi(x), exact or by tanh."""
    return ctx.emit(ew.Gelu(tanh=approximate == "tanh"), x)


def leaky_relu(ctx: Context, x: Value, slope: Scalar = 0.01) -> Value:
    """x where positive, else slope * x."""
    return ctx.emit(ew.LeakyRelu(float(slope)), x)


def elu(ctx: Context, x: Value, alpha: Scalar = 1, scale: Scalar = 1, inner: Scalar = 1) -> Value:
    """scale * (x, or alpha * (exp(inner * x) - 1) below zero)."""
    return ctx.emit(ew.Elu(float(alpha), float(scale), float(inner)), x)


def celu(ctx: Context, x: Value, alpha: Scalar = 1) -> Value:
    """x, or alpha * (exp(x / alpha) - 1) below zero."""
    return elu(ctx, x, alpha, 1.0, 1.0 / float(alpha))


def softplus(ctx: Context, x: Value, beta: Scalar = 1, threshold: Scalar = 20) -> Value:
    """log(1 + exp(beta * x)) / beta."""
    return ctx.emit(ew.Softplus(float(beta), float(threshold)), x)


def prelu(ctx: Context, x: Value, weight: Value) -> Value:
    """x where positive, else weight * x; torch has broadcast the weight already."""
    positive = ctx.emit(ew.Greater(), x, ctx.number(0, x.type.dtype))
    return ctx.emit(ew.Where(), positive, x, ctx.emit(ew.Mul(), x, weight))


def dropout(_: Context, x: Value, p: float, train: bool = False) -> Value:
    """Identity outside of training."""
    if train and p > 0:
        raise Refusal(f"{RANDOM}; call model.eval() before the export")
    return x


def native_dropout(ctx: Context, x: Value, p: float, train: bool | None) -> list[Value]:
    """Identity and a mask of ones outside of training."""
    require(train is False or p == 0, f"{RANDOM}; call model.eval() before the export")
    return [x, ctx.full(x.type.with_dtype(DType.BOOL), True)]


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.gelu.default: gelu,
    aten.silu.default: unary(ew.Silu()),
    aten.hardswish.default: unary(ew.HardSwish()),
    aten.hardsigmoid.default: unary(ew.HardSigmoid()),
    aten.leaky_relu.default: leaky_relu,
    aten.elu.default: elu,
    aten.celu.default: celu,
    aten.softplus.default: softplus,
    aten._prelu_kernel.default: prelu,
    aten.dropout.default: dropout,
    aten.native_dropout.default: native_dropout,
}
