"""Ops over runs of rows whose borders are known only at run time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from optc.ir.dtype import DType
from optc.ir.ops.base import Op, Types, require
from optc.ir.types import TensorType


class BagMode(Enum):
    """How the rows of a bag are joined."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class EmbeddingBag(Op):
    """Inputs weight [V, D], indices [N], offsets [B] (ascending starts), per-sample weights [N].

    Output [B, D]: rows indices[offsets[b] : offsets[b + 1]] of weight, joined; an empty bag is 0.
    The per-sample weights may be left out, and go with SUM only.
    """

    arity: ClassVar[tuple[int, int]] = (3, 4)
    mode: BagMode = BagMode.SUM

    def _infer(self, *inputs: TensorType) -> Types:
        weight, indices, offsets = inputs[:3]
        fits = weight.rank == 2 and indices.rank == 1 and offsets.rank == 1
        fits = fits and {indices.dtype, offsets.dtype} <= {DType.I32, DType.I64}
        require(fits, f"embedding_bag does not take {weight}, {indices}, {offsets}")
        for scale in inputs[3:]:
            fits = scale.shape == indices.shape and self.mode is BagMode.SUM
            require(fits, f"per-sample weights {scale} need mode sum and shape {indices.shape}")
        return (weight.with_shape((offsets.shape[0], weight.shape[1])),)
