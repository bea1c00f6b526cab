"""What normalisations mean, as torch functions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from optc.backends.reference.dtypes import Meaning, widened
from optc.backends.reference.meaning_contraction import channels_first
from optc.ir.ops import BatchNorm, GroupNorm, LayerNorm, LogSoftmax, Op, RmsNorm, Softmax


def _batch_norm(
    op: BatchNorm, x: Tensor, mean: Tensor, variance: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    # torch's gradient of the scale reads past statistics that repeat one number (stride 0).
    measured = mean.contiguous(), variance.contiguous()
    return functional.batch_norm(x, *measured, scale, bias, False, 0.0, op.epsilon)


def _layer_norm(
    op: LayerNorm, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    return functional.layer_norm(x, x.shape[-op.axes :], weight, bias, op.epsilon)


def _rms_norm(op: RmsNorm, x: Tensor, weight: Tensor | None = None) -> Tensor:
    return functional.rms_norm(x, x.shape[-op.axes :], weight, op.epsilon)


def _group_norm(
    op: GroupNorm, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    return functional.group_norm(x, op.groups, weight, bias, op.epsilon)


MEANING: Mapping[type[Op], Meaning] = {
    BatchNorm: widened(channels_first(_batch_norm)),
    LayerNorm: widened(_layer_norm),
    RmsNorm: widened(_rms_norm),
    GroupNorm: widened(channels_first(_group_norm)),
    Softmax: widened(lambda op, x: torch.softmax(x, op.axis)),
    LogSoftmax: widened(lambda op, x: torch.log_softmax(x, op.axis)),
}
