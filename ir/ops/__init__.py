"""The op catalogue: every op class of the IR, by family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from optc.ir.ops import elementwise as ew
from optc.ir.ops.base import Op, OpError, op_name
from optc.ir.ops.contraction import Attention, Conv, ConvTranspose, Linear, MatMul
from optc.ir.ops.movement import (
    Concat,
    Expand,
    Flip,
    GatherElements,
    GatherNd,
    Pad,
    PadMode,
    Reduction,
    Reshape,
    ScatterElements,
    ScatterNd,
    Slice,
    Take,
    Transpose,
)
from optc.ir.ops.normalization import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
    LogSoftmax,
    RmsNorm,
    Softmax,
)
from optc.ir.ops.pooling import AdaptiveAvgPool, AvgPool, MaxPool, MaxPoolIndices
from optc.ir.ops.quantization import Dequantize, Quantize, Requantize
from optc.ir.ops.recurrent import Gru, Lstm
from optc.ir.ops.reduction import (
    ArgMax,
    ArgMin,
    CumProd,
    CumSum,
    ReduceAll,
    ReduceAny,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Sort,
    TopK,
)
from optc.ir.ops.resize import Border, GridSample, Interpolation, Resize
from optc.ir.ops.segment import BagMode, EmbeddingBag
from optc.ir.ops.task import Task

UNARY: tuple[type[Op], ...] = (
    ew.Abs, ew.Neg, ew.Sign, ew.Relu, ew.BitwiseNot, ew.Acos, ew.Acosh, ew.Asin, ew.Asinh, ew.Atan,
    ew.Atanh, ew.Ceil, ew.Cos, ew.Cosh, ew.Erf, ew.Exp, ew.Expm1, ew.Floor, ew.Log, ew.Log10,
    ew.Log1p, ew.Log2, ew.Reciprocal, ew.Round, ew.Rsqrt, ew.Sigmoid, ew.Silu, ew.Sin, ew.Sinh,
    ew.Sqrt, ew.Tan, ew.Tanh, ew.Trunc, ew.Gelu, ew.HardSigmoid, ew.HardSwish, ew.LeakyRelu, ew.Elu,
    ew.Softplus, ew.Clamp, ew.IsInf, ew.IsNan, ew.LogicalNot, ew.Cast,
)  # fmt: skip
BINARY: tuple[type[Op], ...] = (
    ew.Add, ew.Sub, ew.Mul, ew.Div, ew.FloorDiv, ew.TruncDiv, ew.Fmod, ew.Remainder, ew.Pow,
    ew.Atan2, ew.Maximum, ew.Minimum, ew.BitwiseAnd, ew.BitwiseOr, ew.BitwiseXor, ew.ShiftLeft,
    ew.ShiftRight, ew.Equal, ew.NotEqual, ew.Less, ew.LessEqual, ew.Greater, ew.GreaterEqual,
)  # fmt: skip
ELEMENTWISE: tuple[type[Op], ...] = (*UNARY, *BINARY, ew.Where)
MOVEMENT: tuple[type[Op], ...] = (
    Reshape, Transpose, Expand, Slice, Flip, Pad, Concat, Take, GatherElements, ScatterElements,
    GatherNd, ScatterNd,
)  # fmt: skip
REDUCTION: tuple[type[Op], ...] = (
    ReduceSum, ReduceMean, ReduceProd, ReduceMax, ReduceMin, ReduceAny, ReduceAll, CumSum, CumProd,
    ArgMax, ArgMin, Sort, TopK,
)  # fmt: skip
CONTRACTION: tuple[type[Op], ...] = (MatMul, Linear, Conv, ConvTranspose, Attention)
POOLING: tuple[type[Op], ...] = (MaxPool, MaxPoolIndices, AvgPool, AdaptiveAvgPool)
NORMALIZATION: tuple[type[Op], ...] = (
    BatchNorm, LayerNorm, RmsNorm, GroupNorm, Softmax, LogSoftmax,
)  # fmt: skip
QUANTIZATION: tuple[type[Op], ...] = (Quantize, Dequantize, Requantize)
OTHER: tuple[type[Op], ...] = (Resize, GridSample, Lstm, Gru, EmbeddingBag)

OPS: tuple[type[Op], ...] = (
    *ELEMENTWISE, *MOVEMENT, *REDUCTION, *CONTRACTION, *POOLING, *NORMALIZATION,
    *QUANTIZATION, *OTHER, Task,
)  # fmt: skip
OP_OF: Mapping[str, type[Op]] = MappingProxyType({op_name(cls): cls for cls in OPS})

__all__ = [
    "BINARY", "CONTRACTION", "ELEMENTWISE", "MOVEMENT", "NORMALIZATION", "OPS", "OP_OF", "OTHER",
    "POOLING", "QUANTIZATION", "REDUCTION", "UNARY", "AdaptiveAvgPool", "ArgMax", "ArgMin",
    "Attention", "AvgPool", "BagMode", "BatchNorm", "Border", "Concat", "Conv", "ConvTranspose",
    "CumProd", "CumSum", "Dequantize", "EmbeddingBag", "Expand", "Flip", "GatherElements",
    "GatherNd", "GridSample", "GroupNorm", "Gru", "Interpolation", "LayerNorm", "Linear",
    "LogSoftmax", "Lstm", "MatMul", "MaxPool", "MaxPoolIndices", "Op", "OpError", "Pad", "PadMode",
    "Quantize", "ReduceAll", "ReduceAny", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "Reduction", "Requantize", "Reshape", "Resize", "RmsNorm", "ScatterElements",
    "ScatterNd", "Slice", "Softmax", "Sort", "Take", "Task", "TopK", "Transpose", "ew", "op_name",
]  # fmt: skip
