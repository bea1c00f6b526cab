"""What quantization ops mean, as torch functions: one f32 operation after the other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from optc.backends.reference.dtypes import TORCH_DTYPE, Meaning
from optc.ir.dtype import DType
from optc.ir.ops import Dequantize, Op, Quantize, Requantize
from optc.ir.ops.quantization import limits


def spread(parameter: Tensor, shape: torch.Size) -> Tensor:
    """A parameter that broadcasts to `shape`: an entry of a block is repeated for its elements."""
    for axis, (entries, extent) in enumerate(zip(parameter.shape, shape, strict=False)):
        if parameter.dim() and entries not in (1, extent):
            parameter = parameter.repeat_interleave(extent // entries, axis)
    return parameter


def _quantize(op: Quantize, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    inverse = spread(1.0 / scale, x.shape)
    return _saturated(x.float() * inverse, zero, op.dtype)


def _requantize(op: Requantize, x: Tensor, multiplier: Tensor, zero: Tensor) -> Tensor:
    return _saturated(x.float() * spread(multiplier, x.shape), zero, op.dtype)


def _saturated(scaled: Tensor, zero: Tensor, dtype: DType) -> Tensor:
    least, most = limits(dtype)
    moved = torch.round(scaled) + spread(zero, scaled.shape).float()
    # Compared and not clamped: nan is the least integer.
    moved = torch.where(moved > least, moved, float(least))
    return torch.where(moved < most, moved, float(most)).to(TORCH_DTYPE[dtype])


def _dequantize(op: Dequantize, q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    moved = q.float() - spread(zero, q.shape).float()
    return (moved * spread(scale, q.shape)).to(TORCH_DTYPE[op.dtype])


MEANING: Mapping[type[Op], Meaning] = {
    Quantize: _quantize,
    Dequantize: _dequantize,
    Requantize: _requantize,
}
