"""Which ATen ops torch takes apart before the rules see them: all but those the IR has as ops."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch._ops import OperatorBase
from torch.export import default_decompositions

# Taken apart, each of these would have to be raised again by a pass, or would grow a graph: an LSTM
# over 100 steps becomes 1500 nodes.
_KEPT = """
linear matmul layer_norm rms_norm instance_norm gelu silu hardswish hardsigmoid leaky_relu elu celu
softplus softmax log_softmax scaled_dot_product_attention
avg_pool1d max_pool1d adaptive_avg_pool1d adaptive_max_pool1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
upsample_trilinear3d upsample_bicubic2d
lstm gru lstm_cell gru_cell
reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
replication_pad3d _pad_circular
all stack select_scatter square tile baddbmm where split split_with_sizes unbind
tril triu roll unfold masked_fill index_add index_copy trace
""".split()


def table() -> dict[OperatorBase, Callable[..., object]]:
    """torch's default decompositions without the kept ops; a copy, since torch takes from it."""
    return dict(_table())


@cache
def _table() -> dict[OperatorBase, Callable[..., object]]:
    decompositions = default_decompositions()
    for op in list(decompositions.keys()):
        namespace, _, rest = op.name().partition("::")
        if namespace == "aten" and rest.partition(".")[0] in _KEPT:
            decompositions.pop(op)
    return decompositions.materialize()
