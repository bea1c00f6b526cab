"""Runs lowerings on this machine: many ops compiled as one module, called on torch tensors."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import torch
import tvm
from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.lower.table import LOWER
from optc.ir.ops import Op
from optc.ir.types import TensorType
from torch import Tensor
from tvm import te

Signature = tuple[Op, Sequence[TensorType]]


class Compiled:
    """Functions `k0`, `k1`, ... for a list of ops; each is called with tensors for its inputs."""

    def __init__(self, items: Sequence[Signature]) -> None:
        self._results = [op.infer(*types) for op, types in items]
        functions = {f"k{i}": _function(*item) for i, item in enumerate(items)}
        module = tvm.IRModule(
            {name: f.with_attr("global_symbol", name) for name, f in functions.items()}
        )
        self._built = tvm.compile(module, target={"kind": "llvm", "num-cores": 2})

    def __call__(self, number: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of the `number`-th op."""
        outputs = [
            tvm.runtime.tensor(np.zeros(type.shape, _numpy_dtype(type)))
            for type in self._results[number]
        ]
        self._built[f"k{number}"](*(tvm.runtime.tensor(_to_numpy(x)) for x in inputs), *outputs)
        return [_to_torch(item.numpy()) for item in outputs]


def _function(op: Op, types: Sequence[TensorType]) -> tvm.tirx.PrimFunc:
    inputs = [te.placeholder(t.shape, tvm_dtype(t.dtype), f"in{i}") for i, t in enumerate(types)]
    outputs = LOWER[type(op)](op, inputs, types)
    return te.create_prim_func([*inputs, *outputs])


def _numpy_dtype(type: TensorType) -> np.dtype:
    name = tvm_dtype(type.dtype)
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _to_numpy(x: Tensor) -> np.ndarray:
    if x.dtype is torch.bfloat16:
        return x.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.contiguous().numpy()


def _to_torch(array: np.ndarray) -> Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
