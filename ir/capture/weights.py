"""Weights by reference: a torch tensor's memory as an array, and what is odd about its content."""

from __future__ import annotations

import numpy as np
import torch

from optc.ir.capture.dtypes import from_torch
from optc.ir.constant import Constant, Stored, splat
from optc.ir.diagnostics import Diagnostic, Severity
from optc.ir.types import TensorType

_CHUNK = 1 << 22  # elements looked at together: bounds the memory that the check for nan takes
_SPLAT_LIMIT = 1 << 16  # above this many elements, looking for a splat costs more than it saves


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory as an array, bf16 as uint16; nothing is copied."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    if plain.dtype is torch.bfloat16:
        return plain.view(torch.int16).numpy().view(np.uint16)
    array: np.ndarray = plain.numpy()
    return array


def constant_of(tensor: torch.Tensor) -> Constant:
    """A constant of the content: a splat where all elements are equal, else by reference."""
    type = TensorType(tuple(tensor.shape), from_torch(tensor.dtype))
    if _is_splat(tensor):
        return splat(tensor.reshape(-1)[0].item() if tensor.numel() else 0, type)
    array = array_of(tensor)
    return Constant(type, Stored(lambda: array))


def weight_of(tensor: torch.Tensor) -> Constant:
    """A parameter or buffer as a constant, always by reference: it may be trained later."""
    array = array_of(tensor)
    return Constant(
        TensorType(tuple(tensor.shape), from_torch(tensor.dtype)), Stored(lambda: array)
    )


def identity_of(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for tensors that are the same memory read the same way: tied weights."""
    return (
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
    )


def oddities(name: str, tensor: torch.Tensor, *, is_parameter: bool) -> list[Diagnostic]:
    """A warning when a weight holds nan, or a parameter infinities (masks hold them rightly)."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
        return []
    plain = tensor.detach()
    flat = plain.reshape(-1) if plain.is_contiguous() else plain.contiguous().reshape(-1)
    pieces = flat.split(_CHUNK)
    if all(bool(torch.isfinite(piece).all()) for piece in pieces):
        return []
    nans = sum(int(torch.isnan(piece).sum()) for piece in pieces)
    infinite = sum(int(torch.isinf(piece).sum()) for piece in pieces)
    what = "nan" if nans else "infinities"
    if not nans and not is_parameter:
        return []
    message = f"weight {name} holds {what}: {nans or infinite} of {tensor.numel()} elements"
    help = "outputs that depend on it will not be numbers; export a checkpoint that trained well"
    return [Diagnostic("W0240", message, Severity.WARNING, help=help)]


def _is_splat(tensor: torch.Tensor) -> bool:
    if tensor.numel() <= 1 or all(
        stride == 0 or dim == 1 for stride, dim in zip(tensor.stride(), tensor.shape, strict=True)
    ):
        return True
    if tensor.numel() > _SPLAT_LIMIT:
        return False
    return bool((tensor == tensor.reshape(-1)[0]).all())
