"""What recurrent layers and bags of rows mean, as torch functions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from optc.backends.reference.dtypes import Meaning, widened
from optc.ir.ops import EmbeddingBag, Gru, Lstm, Op


def _lstm(op: Lstm, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    walked = x.flip(0) if op.reverse else x
    state = (h[None], c[None])
    y, last, cell = torch.lstm(walked, state, weights, True, 1, 0.0, False, False, False)
    return (y.flip(0) if op.reverse else y, last[0], cell[0])


def _gru(op: Gru, x: Tensor, h: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    walked = x.flip(0) if op.reverse else x
    y, last = torch.gru(walked, h[None], weights, True, 1, 0.0, False, False, False)
    return (y.flip(0) if op.reverse else y, last[0])


def _embedding_bag(
    op: EmbeddingBag, weight: Tensor, indices: Tensor, offsets: Tensor, scale: Tensor | None = None
) -> Tensor:
    return torch.nn.functional.embedding_bag(
        indices,
        weight,
        offsets.to(indices.dtype),
        mode=op.mode.value,
        per_sample_weights=scale,
    )


MEANING: Mapping[type[Op], Meaning] = {
    Lstm: widened(_lstm),
    Gru: widened(_gru),
    EmbeddingBag: widened(_embedding_bag),
}
