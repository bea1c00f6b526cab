"""Torch's element types in the IR's spelling."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from optc.ir.capture.refusal import Refusal
from optc.ir.dtype import DType

_FROM_TORCH: Mapping[torch.dtype, DType] = {
    torch.float64: DType.F64,
    torch.float32: DType.F32,
    torch.float16: DType.F16,
    torch.bfloat16: DType.BF16,
    torch.int64: DType.I64,
    torch.int32: DType.I32,
    torch.int16: DType.I16,
    torch.int8: DType.I8,
    torch.uint8: DType.U8,
    torch.bool: DType.BOOL,
}
_PART: Mapping[torch.dtype, torch.dtype] = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}
TO_TORCH: Mapping[DType, torch.dtype] = {mine: theirs for theirs, mine in _FROM_TORCH.items()}


def from_torch(dtype: torch.dtype) -> DType:
    """The IR's dtype; for a complex one, that of its parts. Raises Refusal when there is none."""
    found = _FROM_TORCH.get(_PART.get(dtype, dtype))
    if found is None:
        raise Refusal(f"element type {str(dtype).removeprefix('torch.')} is not supported")
    return found
