"""Torch's spelling of dtypes and constants, and the rule for half precision.

f16 and bf16 are computed in f32 and rounded once per op; i4 is an int8 whose upper bits repeat the
sign.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optc.ir.constant import Constant, Splat
from optc.ir.dtype import DType
from optc.ir.ops import Op

Meaning = Callable[..., Tensor | tuple[Tensor, ...]]

TORCH_DTYPE: Mapping[DType, torch.dtype] = {
    DType.F64: torch.float64,
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.I64: torch.int64,
    DType.I32: torch.int32,
    DType.I16: torch.int16,
    DType.I8: torch.int8,
    DType.U8: torch.uint8,
    DType.I4: torch.int8,
    DType.BOOL: torch.bool,
}
_HALF = (torch.float16, torch.bfloat16)


def to_dtype(x: Tensor, dtype: DType) -> Tensor:
    """Convert; i4 keeps the low four bits."""
    converted = x.to(TORCH_DTYPE[dtype])
    return (converted << 4) >> 4 if dtype is DType.I4 else converted


def to_storage(tensor: Tensor, dtype: DType) -> np.ndarray:
    """A tensor as a constant of this dtype holds it."""
    tensor = tensor.detach().contiguous()
    bits: np.ndarray = (
        tensor.view(torch.int16).numpy().view(np.uint16) if dtype is DType.BF16 else tensor.numpy()
    )
    return bits


def to_tensor(item: Constant) -> Tensor:
    """The constant as a tensor that shares its memory; nobody may write to it."""
    if isinstance(item.source, Splat):
        value = item.source.value
        # A Python float is an f64; torch would make it an f32 and lose digits of f64 splats.
        number = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
        return to_dtype(number, item.type.dtype).expand(item.type.shape)
    array = item.array
    if array.dtype == np.uint16:
        array = array.view(np.int16)
    with warnings.catch_warnings():
        # Mapped weights are read-only; torch warns because it cannot promise not to write.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if item.type.dtype is DType.BF16 else tensor


def widened(meaning: Meaning) -> Meaning:
    """The same function, halves computed in f32; the result is rounded to the first's dtype."""

    def run(op: Op, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        if not any(x.dtype in _HALF for x in inputs):
            return meaning(op, *inputs)
        result: Any = meaning(op, *(x.float() if x.dtype in _HALF else x for x in inputs))
        if isinstance(result, tuple):
            return tuple(_narrow(item, inputs[0].dtype) for item in result)
        return _narrow(result, inputs[0].dtype)

    return run


def _narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.dtype is torch.float32 else x
