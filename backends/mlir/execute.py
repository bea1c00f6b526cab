"""Run linalg through MLIR's own execution engine: an oracle that shares no kernel code with ours.

Loops are plain and serial: this is for being right, not fast.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch_mlir import execution_engine, ir, passmanager, runtime

from optc.backends.mlir.bridge import Dialect, to_mlir
from optc.ir.dtype import DType
from optc.ir.module import Module

# From tensors to LLVM in the order of MLIR's documentation: bufferize, loops, control flow, LLVM.
_PIPELINE = """builtin.module(
  canonicalize,
  func.func(linalg-generalize-named-ops),
  one-shot-bufferize{
    bufferize-function-boundaries=1
    function-boundary-type-conversion=identity-layout-map
  },
  buffer-results-to-out-params{hoist-static-allocs=1 modify-public-functions=1},
  func.func(convert-linalg-to-loops),
  expand-strided-metadata,
  lower-affine,
  convert-scf-to-cf,
  func.func(arith-expand),
  func.func(convert-math-to-llvm),
  convert-math-to-libm,
  finalize-memref-to-llvm,
  convert-arith-to-llvm,
  convert-func-to-llvm,
  convert-cf-to-llvm,
  reconcile-unrealized-casts)"""


def run(module: Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One call of a module without states; outputs by name.

    Raises E0601 for what torch-mlir cannot lower and ValueError for a module with states or bf16.
    """
    if module.states:
        raise ValueError("states are not run through MLIR")
    linalg = to_mlir(module, Dialect.LINALG)
    with linalg.context:
        main = next(op for op in linalg.body.operations if op.operation.name == "func.func")
        main.attributes["llvm.emit_c_interface"] = ir.UnitAttr.get()
        passmanager.PassManager.parse(_PIPELINE.replace("\n", "")).run(linalg.operation)
        engine = execution_engine.ExecutionEngine(linalg, 2)
        engine.raw_register_runtime("memrefCopy", ctypes.cast(_MEMREF_COPY, ctypes.c_void_p))
    arguments = [_array(inputs[port.name]) for port in module.inputs]
    results = [np.zeros(port.type.shape, _storage(port.type.dtype)) for port in module.outputs]
    boxes = [
        ctypes.pointer(ctypes.pointer(runtime.get_ranked_memref_descriptor(array)))
        for array in (*arguments, *results)
    ]
    engine.invoke("main", *boxes)
    pairs = zip(module.outputs, results, strict=True)
    return {port.name: torch.from_numpy(array) for port, array in pairs}


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


def _storage(dtype: DType) -> np.dtype:
    if dtype is DType.BF16:
        raise ValueError("bf16 is not run through MLIR: numpy has no such type")
    return dtype.storage


class _Unranked(ctypes.Structure):
    """MLIR's UnrankedMemRefType: a rank, and a descriptor of that rank."""

    _fields_ = [("rank", ctypes.c_int64), ("descriptor", ctypes.c_void_p)]


def _memref_copy(element_bytes: int, source: Any, target: Any) -> None:
    """MLIR's runtime function `memrefCopy`, which its Python wheel does not carry."""
    _view(element_bytes, target.contents)[...] = _view(element_bytes, source.contents)


# Kept for the life of the process: C calls it.
_MEMREF_COPY = ctypes.CFUNCTYPE(
    None, ctypes.c_int64, ctypes.POINTER(_Unranked), ctypes.POINTER(_Unranked)
)(_memref_copy)


def _view(element_bytes: int, item: _Unranked) -> np.ndarray:
    """The elements of a memref as opaque bytes, strides and all."""
    rank = item.rank
    # allocated, aligned, offset, sizes[rank], strides[rank]
    words = (ctypes.c_int64 * (3 + 2 * rank)).from_address(item.descriptor)
    sizes, strides = words[3 : 3 + rank], words[3 + rank :]
    reach = 1 + sum((n - 1) * abs(s) for n, s in zip(sizes, strides, strict=True))
    start = words[1] + words[2] * element_bytes
    flat = np.ctypeslib.as_array((ctypes.c_uint8 * (reach * element_bytes)).from_address(start))
    elements = flat.view(f"V{element_bytes}")
    steps = [stride * element_bytes for stride in strides]
    return np.lib.stride_tricks.as_strided(elements, sizes, steps)
