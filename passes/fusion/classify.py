"""What fusion may do with each op: the table behind `fuse`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from optc.ir import ops
from optc.ir.ops.base import Op


class Role(Enum):
    """How an op may take part in a task."""

    ANCHOR = "anchor"  # multiplies and sums, or folds axes: one per task, computed by a template
    INJECTIVE = "injective"  # each element from few elements: inlined before or after an anchor
    OPAQUE = "opaque"  # a kernel of its own
    ALIAS = "alias"  # no kernel when alone: the same bytes under another shape


_ANCHORS: tuple[type[Op], ...] = (
    ops.MatMul,
    ops.Linear,
    ops.Conv,
    ops.ConvTranspose,
    ops.Attention,
    ops.MaxPool,
    ops.AvgPool,
    ops.AdaptiveAvgPool,
    ops.LayerNorm,
    ops.RmsNorm,
    ops.GroupNorm,
    ops.Softmax,
    ops.LogSoftmax,
    ops.ReduceSum,
    ops.ReduceMean,
    ops.ReduceProd,
    ops.ReduceMax,
    ops.ReduceMin,
    ops.ReduceAny,
    ops.ReduceAll,
    ops.ArgMax,
    ops.ArgMin,
    ops.EmbeddingBag,
)
_INJECTIVE: tuple[type[Op], ...] = (
    *ops.ELEMENTWISE,
    *ops.QUANTIZATION,
    ops.BatchNorm,
    ops.Transpose,
    ops.Expand,
    ops.Slice,
    ops.Flip,
    ops.Pad,
    ops.Take,
    ops.GatherElements,
    ops.GatherNd,
)
_OPAQUE: tuple[type[Op], ...] = (
    ops.Concat,  # inlined it becomes a chain of branches; alone it is copies
    ops.ScatterElements,
    ops.ScatterNd,
    ops.CumSum,
    ops.CumProd,
    ops.Sort,
    ops.TopK,
    ops.MaxPoolIndices,
    ops.Resize,
    ops.GridSample,
    ops.Lstm,
    ops.Gru,
    ops.Task,
)

ROLE: Mapping[type[Op], Role] = MappingProxyType(
    {
        ops.Reshape: Role.ALIAS,
        **dict.fromkeys(_ANCHORS, Role.ANCHOR),
        **dict.fromkeys(_INJECTIVE, Role.INJECTIVE),
        **dict.fromkeys(_OPAQUE, Role.OPAQUE),
    }
)
