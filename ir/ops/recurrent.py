"""Recurrent layers, kept whole: unrolled they are thousands of nodes. One layer, one direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optc.ir.ops.base import Op, Types, require, same_dtype
from optc.ir.types import TensorType


def _check(gates: int, x: TensorType, hidden: TensorType, weights: tuple[TensorType, ...]) -> None:
    require(
        x.rank == 3 and hidden.rank == 2, f"recurrent layers take [T, B, I] and [B, H], not {x}"
    )
    size, rows = hidden.shape[1], gates * hidden.shape[1]
    wanted = ((rows, x.shape[2]), (rows, size), (rows,), (rows,))
    for weight, shape in zip(weights, wanted, strict=True):
        require(weight.shape == shape, f"recurrent weight is {shape}, not {weight}")
    require(x.shape[1] == hidden.shape[0], f"batch of {x} and {hidden} differ")


@dataclass(frozen=True, slots=True)
class Lstm(Op):
    """Inputs x [T, B, I], h [B, H], c [B, H], w_ih [4H, I], w_hh [4H, H], b_ih [4H], b_hh [4H].

    Outputs y [T, B, H], last h, last c; gates in torch's order i, f, g, o (Hochreiter and
    Schmidhuber 1997, as in torch.nn.LSTM). `reverse` walks from the last step to the first.
    """

    arity: ClassVar[tuple[int, int]] = (7, 7)
    reverse: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        x, hidden, cell = inputs[:3]
        same_dtype(*inputs)
        _check(4, x, hidden, inputs[3:])
        require(hidden == cell, f"h and c have one type, not {hidden} and {cell}")
        return (x.with_shape((*x.shape[:2], hidden.shape[1])), hidden, cell)


@dataclass(frozen=True, slots=True)
class Gru(Op):
    """Inputs x [T, B, I], h [B, H], w_ih [3H, I], w_hh [3H, H], b_ih [3H], b_hh [3H].

    Outputs y [T, B, H] and last h; gates in torch's order r, z, n (Cho et al. 2014, as in
    torch.nn.GRU). `reverse` walks from the last step to the first.
    """

    arity: ClassVar[tuple[int, int]] = (6, 6)
    reverse: bool = False

    def _infer(self, *inputs: TensorType) -> Types:
        x, hidden = inputs[:2]
        same_dtype(*inputs)
        _check(3, x, hidden, inputs[2:])
        return (x.with_shape((*x.shape[:2], hidden.shape[1])), hidden)
