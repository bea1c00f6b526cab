"""Rules for what PyTorch's pt2e flow leaves in a graph: `quantized_decomposed`'s (de)quantize ops.

Nobody need have loaded that library to capture other models, so these rules go by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, require
from optc.ir.capture.dtypes import from_torch
from optc.ir.dtype import DType
from optc.ir.graph import Value
from optc.ir.ops import Dequantize, Quantize, ew
from optc.ir.ops.contraction import BYTES
from optc.ir.ops.quantization import limits

NAMESPACE = "quantized_decomposed"
Number = Value | float | int


def quantize(
    ctx: Context, x: Value, scale: Number, zero: Number, low: int, high: int, kind: torch.dtype
) -> Value:
    """saturate(rint(x * (1 / scale)) + zero), perhaps in fewer integers than the dtype has."""
    dtype = _stored(kind)
    parameters = _parameter(ctx, scale, DType.F32), _parameter(ctx, zero, dtype)
    return _limited(ctx, ctx.emit(Quantize(dtype), x, *parameters), low, high)


def quantize_channels(
    ctx: Context, x: Value, scale: Value, zero: Value, axis: int, low: int, high: int,
    kind: torch.dtype,
) -> Value:  # fmt: skip
    """The same with parameters along an axis."""
    scale, zero = (_along(ctx, item, axis, x.type.rank) for item in (scale, zero))
    return quantize(ctx, x, scale, zero, low, high, kind)


def dequantize(
    ctx: Context, q: Value, scale: Number, zero: Number, _low: int, _high: int, _kind: torch.dtype,
    *, out_dtype: torch.dtype | None = None,
) -> Value:  # fmt: skip
    """(q - zero) * scale."""
    dtype = q.type.dtype
    require(dtype in (*BYTES, DType.I32), f"integers of {dtype} are not dequantized")
    parameters = _parameter(ctx, scale, DType.F32), _parameter(ctx, zero, dtype)
    return ctx.emit(Dequantize(from_torch(out_dtype or torch.float32)), q, *parameters)


def dequantize_channels(
    ctx: Context, q: Value, scale: Value, zero: Value | None, axis: int, low: int, high: int,
    kind: torch.dtype, *, out_dtype: torch.dtype | None = None,
) -> Value:  # fmt: skip
    """The same with parameters along an axis; without zeros they are 0."""
    rank = q.type.rank
    zeros = 0 if zero is None else _along(ctx, zero, axis, rank)
    scale = _along(ctx, scale, axis, rank)
    return dequantize(ctx, q, scale, zeros, low, high, kind, out_dtype=out_dtype)


def _stored(kind: torch.dtype) -> DType:
    dtype = from_torch(kind)
    require(dtype in BYTES, f"quantizing to {dtype} is not supported")
    return dtype


def _along(ctx: Context, value: Value, axis: int, rank: int) -> Value:
    shape = [1] * rank
    shape[axis] = -1
    return ctx.reshape(value, shape)


def _parameter(ctx: Context, item: Number, dtype: DType) -> Value:
    """A number or a tensor as a parameter; a tensor of one number is one for all."""
    value = ctx.value(item, dtype)
    return ctx.reshape(value, ()) if value.type.elements == 1 else value


def _limited(ctx: Context, q: Value, low: int, high: int) -> Value:
    least, most = limits(q.type.dtype)
    floor, ceiling = low if low > least else None, high if high < most else None
    return q if floor is ceiling is None else ctx.emit(ew.Clamp(floor, ceiling), q)


RULES: Mapping[str, Callable[..., Any]] = {
    **{f"quantize_per_tensor.{name}": quantize for name in ("default", "tensor", "tensor2")},
    **{f"dequantize_per_tensor.{name}": dequantize for name in ("default", "tensor", "tensor2")},
    "quantize_per_channel.default": quantize_channels,
    "dequantize_per_channel.default": dequantize_channels,
}


def rule(target: OpOverload) -> Callable[..., Any] | None:
    """The rule for one of the library's ops, or None."""
    return RULES.get(str(target).removeprefix(f"{NAMESPACE}."))
