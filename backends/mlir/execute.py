"""Run linalg through MLIR's own execution engine: an oracle that shares no kernel code with ours.

Loops are plain and serial: this is for being right, not fast.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

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
  one-shot-bufferize{bufferize-function-boundaries=1 function-boundary-type-conversion=identity-layout-map},
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


