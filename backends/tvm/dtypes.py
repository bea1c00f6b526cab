"""How the IR's element types are spelled in TVM."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import tvm

from optc.ir.dtype import DType

if TYPE_CHECKING:
    from tvm.tirx import Buffer

_NAMES = {
    DType.F64: "float64",
    DType.F32: "float32",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.I64: "int64",
    DType.I32: "int32",
    DType.I16: "int16",
    DType.I8: "int8",
    DType.U8: "uint8",
    DType.I4: "int8",  # one element a byte; packed nibbles are a Pack's business
    DType.BOOL: "bool",
}


def tvm_dtype(dtype: DType) -> str:
    """TVM's name of `dtype`."""
    return _NAMES[dtype]


def width_of(dtype: str) -> int:
    """Bytes of one element, lanes of a vector included."""
    found = tvm.DataType(dtype)
    bits: int = found.bits * found.lanes
    return -(-bits // 8)


def nbytes_of(buffer: Buffer) -> int:
    """Bytes of a dense buffer."""
    return math.prod(int(extent) for extent in buffer.shape) * width_of(buffer.dtype)
