"""What elementwise ops mean, as torch functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from optc.backends.reference.dtypes import Meaning, to_dtype, widened
from optc.ir.ops import Op, ew


def _gelu(op: ew.Gelu, x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh" if op.tanh else "none")


def _elu(op: ew.Elu, x: Tensor) -> Tensor:
    y: Tensor = torch.ops.aten.elu(x, op.alpha, op.scale, op.input_scale)
    return y


def _clamp(op: ew.Clamp, x: Tensor) -> Tensor:
    if op.low is None and op.high is None:
        return x
    return torch.clamp(x, op.low, op.high).to(x.dtype)


def _cast(op: ew.Cast, x: Tensor) -> Tensor:
    return to_dtype(x, op.dtype)


def _div_floor(_: Op, a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="floor")


def _div_trunc(_: Op, a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="trunc")


def _plain(function: Callable[..., Tensor]) -> Meaning:
    """An op without attributes that is one torch function."""

    def meaning(_: Op, *inputs: Tensor) -> Tensor:
        return function(*inputs)

    return meaning


_F = torch.nn.functional
_EXACT: Mapping[type[Op], Meaning] = {
    ew.Abs: _plain(torch.abs),
    ew.Neg: _plain(torch.neg),
    ew.Sign: _plain(torch.sign),
    ew.Relu: _plain(torch.relu),
    ew.Ceil: _plain(torch.ceil),
    ew.Floor: _plain(torch.floor),
    ew.Round: _plain(torch.round),
    ew.Trunc: _plain(torch.trunc),
    ew.BitwiseNot: _plain(torch.bitwise_not),
    ew.IsInf: _plain(torch.isinf),
    ew.IsNan: _plain(torch.isnan),
    ew.LogicalNot: _plain(torch.logical_not),
    ew.Cast: _cast,
    ew.Maximum: _plain(torch.maximum),
    ew.Minimum: _plain(torch.minimum),
    ew.BitwiseAnd: _plain(torch.bitwise_and),
    ew.BitwiseOr: _plain(torch.bitwise_or),
    ew.BitwiseXor: _plain(torch.bitwise_xor),
    ew.ShiftLeft: _plain(torch.bitwise_left_shift),
    ew.ShiftRight: _plain(torch.bitwise_right_shift),
    ew.Equal: _plain(torch.eq),
    ew.NotEqual: _plain(torch.ne),
    ew.Less: _plain(torch.lt),
    ew.LessEqual: _plain(torch.le),
    ew.Greater: _plain(torch.gt),
    ew.GreaterEqual: _plain(torch.ge),
    ew.Where: _plain(torch.where),
}
_ROUNDED: Mapping[type[Op], Meaning] = {
    ew.Acos: _plain(torch.acos),
    ew.Acosh: _plain(torch.acosh),
    ew.Asin: _plain(torch.asin),
    ew.Asinh: _plain(torch.asinh),
    ew.Atan: _plain(torch.atan),
    ew.Atanh: _plain(torch.atanh),
    ew.Cos: _plain(torch.cos),
    ew.Cosh: _plain(torch.cosh),
    ew.Erf: _plain(torch.erf),
    ew.Exp: _plain(torch.exp),
    ew.Expm1: _plain(torch.expm1),
    ew.Log: _plain(torch.log),
    ew.Log10: _plain(torch.log10),
    ew.Log1p: _plain(torch.log1p),
    ew.Log2: _plain(torch.log2),
    ew.Reciprocal: _plain(torch.reciprocal),
    ew.Rsqrt: _plain(torch.rsqrt),
    ew.Sigmoid: _plain(torch.sigmoid),
    ew.Silu: _plain(_F.silu),
    ew.Sin: _plain(torch.sin),
    ew.Sinh: _plain(torch.sinh),
    ew.Sqrt: _plain(torch.sqrt),
    ew.Tan: _plain(torch.tan),
    ew.Tanh: _plain(torch.tanh),
    ew.Gelu: _gelu,
    ew.HardSigmoid: _plain(_F.hardsigmoid),
    ew.HardSwish: _plain(_F.hardswish),
    ew.LeakyRelu: lambda op, x: _F.leaky_relu(x, op.slope),
    ew.Elu: _elu,
    ew.Softplus: lambda op, x: _F.softplus(x, op.beta, op.threshold),
    ew.Clamp: _clamp,
    ew.Add: _plain(torch.add),
    ew.Sub: _plain(torch.sub),
    ew.Mul: _plain(torch.mul),
    ew.Div: _plain(torch.div),
    ew.FloorDiv: _div_floor,
    ew.TruncDiv: _div_trunc,
    ew.Fmod: _plain(torch.fmod),
    ew.Remainder: _plain(torch.remainder),
    ew.Pow: _plain(torch.pow),
    ew.Atan2: _plain(torch.atan2),
}
MEANING: Mapping[type[Op], Meaning] = {
    **_EXACT,
    **{kind: widened(meaning) for kind, meaning in _ROUNDED.items()},
}
