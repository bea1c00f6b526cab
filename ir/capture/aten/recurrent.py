"""ATen rules: recurrent layers, one IR op per layer and direction, never unrolled; bags of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from optc.ir.capture.context import Context, require
from optc.ir.capture.refusal import RANDOM
from optc.ir.graph import Value
from optc.ir.ops import BagMode, EmbeddingBag, Gru, Lstm, ew

aten = torch.ops.aten
TRAINING = f"{RANDOM}; call model.eval() before the export"


def _gates(ctx: Context, weights: Sequence[Value], has_biases: bool) -> list[Value]:
    """The four weights of one layer and direction; missing biases are zeros."""
    if has_biases:
        return list(weights)
    zeros = ctx.full(weights[0].type.with_shape(weights[0].shape[:1]), 0)
    return [*weights, zeros, zeros]


@dataclass(frozen=True, slots=True)
class _Stack:
    """Layers of one kind; `params` lie in torch's order: by layer, direction, then weight."""

    op: type[Lstm | Gru]
    params: Sequence[Value]
    has_biases: bool
    layers: int
    directions: int

    def start(self, ctx: Context, states: Sequence[Value], cell: int) -> list[Value]:
        """First states of one layer and direction."""
        rows = [ctx.slice(state, 0, cell, cell + 1) for state in states]
        return [ctx.reshape(row, row.shape[1:]) for row in rows]

    def cell(self, ctx: Context, x: Value, states: Sequence[Value], cell: int) -> list[Value]:
        """One layer in one direction: the sequence and the last states."""
        count = 4 if self.has_biases else 2
        weights = _gates(ctx, self.params[cell * count : (cell + 1) * count], self.has_biases)
        op = self.op(reverse=cell % self.directions == 1)
        return list(ctx.emit_all(op, x, *self.start(ctx, states, cell), *weights))

    def run(self, ctx: Context, x: Value, states: Sequence[Value]) -> list[Value]:
        """The sequence [T, B, directions * H], then the last states [layers * directions, B, H]."""
        ends: list[list[Value]] = []
        for layer in range(self.layers):
            cells = range(layer * self.directions, (layer + 1) * self.directions)
            found = [self.cell(ctx, x, states, cell) for cell in cells]
            x = ctx.concat([outputs[0] for outputs in found], 2)
            ends += [outputs[1:] for outputs in found]
        columns = zip(*ends, strict=True)
        return [x, *(ctx.concat([ctx.unsqueeze(h, 0) for h in column], 0) for column in columns)]


def _run(
    ctx: Context, stack: _Stack, x: Value, states: Sequence[Value], batch_first: bool
) -> list[Value]:
    """The layers on [T, B, I], on [B, T, I] when `batch_first`, or on [T, I]."""
    if x.type.rank == 2:
        found = stack.run(ctx, ctx.unsqueeze(x, 1), [ctx.unsqueeze(state, 1) for state in states])
        return [ctx.reshape(item, (item.shape[0], item.shape[2])) for item in found]
    if not batch_first:
        return stack.run(ctx, x, states)
    sequence, *ends = stack.run(ctx, ctx.permute(x, (1, 0, 2)), states)
    return [ctx.permute(sequence, (1, 0, 2)), *ends]


def lstm(
    ctx: Context,
    x: Value,
    states: Sequence[Value],
    params: Sequence[Value],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Value]:
    """torch.nn.LSTM."""
    require(not (train and dropout), TRAINING)
    count = layers * (1 + bidirectional) * (4 if has_biases else 2)
    require(len(params) == count, "an LSTM with projections (proj_size) is not supported")
    stack = _Stack(Lstm, params, has_biases, layers, 1 + bidirectional)
    return _run(ctx, stack, x, states, batch_first)


def gru(
    ctx: Context,
    x: Value,
    state: Value,
    params: Sequence[Value],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> list[Value]:
    """torch.nn.GRU."""
    require(not (train and dropout), TRAINING)
    stack = _Stack(Gru, params, has_biases, layers, 1 + bidirectional)
    return _run(ctx, stack, x, [state], batch_first)


def _cell_weights(ctx: Context, weights: Sequence[Value | None]) -> list[Value]:
    present = [weight for weight in weights if weight is not None]
    return _gates(ctx, present, len(present) == 4)


def lstm_cell(
    ctx: Context, x: Value, states: Sequence[Value], *weights: Value | None
) -> list[Value]:
    """One step of an LSTM."""
    sequence, *starts = (ctx.reshape(item, (-1, item.shape[-1])) for item in (x, *states))
    found = ctx.emit_all(Lstm(), ctx.unsqueeze(sequence, 0), *starts, *_cell_weights(ctx, weights))
    return [ctx.reshape(item, state.shape) for item, state in zip(found[1:], states, strict=True)]


def gru_cell(ctx: Context, x: Value, state: Value, *weights: Value | None) -> Value:
    """One step of a GRU."""
    sequence, start = (ctx.reshape(item, (-1, item.shape[-1])) for item in (x, state))
    found = ctx.emit_all(Gru(), ctx.unsqueeze(sequence, 0), start, *_cell_weights(ctx, weights))
    return ctx.reshape(found[1], state.shape)


def embedding_bag(
    ctx: Context,
    weight: Value,
    indices: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    scales: Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> list[Value]:
    """Rows of a table joined by bags; the bookkeeping for the backward pass is not made."""
    require(
        not any(ctx.used(n) for n in (1, 2, 3)), "what embedding_bag keeps for training is not made"
    )
    if include_last_offset:
        offsets = ctx.slice(offsets, 0, 0, offsets.shape[0] - 1)
    how = (BagMode.SUM, BagMode.MEAN, BagMode.MAX)[mode]
    if padding_idx >= 0:
        return [_without_padding(ctx, weight, indices, offsets, how, scales, padding_idx)] * 4
    extra = [] if scales is None else [scales]
    result = ctx.emit(EmbeddingBag(how), weight, indices, offsets, *extra)
    return [result] * 4


def _without_padding(
    ctx: Context,
    weight: Value,
    indices: Value,
    offsets: Value,
    how: BagMode,
    scales: Value | None,
    padding: int,
) -> Value:
    """Bags in which one row of the table counts as absent."""
    require(how is not BagMode.MAX, "embedding_bag of maxima with a padding index is not supported")
    kind = weight.type.dtype
    number = ctx.number(padding, indices.type.dtype)
    present = ctx.cast(ctx.emit(ew.NotEqual(), indices, number), kind)
    scaled = present if scales is None else ctx.emit(ew.Mul(), present, scales)
    total = ctx.emit(EmbeddingBag(BagMode.SUM), weight, indices, offsets, scaled)
    if how is BagMode.SUM:
        return total
    ones = ctx.full(weight.type.with_shape((weight.shape[0], 1)), 1)
    count = ctx.emit(EmbeddingBag(BagMode.SUM), ones, indices, offsets, present)
    return ctx.emit(ew.Div(), total, ctx.emit(ew.Maximum(), count, ctx.number(1, kind)))


RULES: Mapping[OpOverload, Callable[..., Any]] = {
    aten.lstm.input: lstm,
    aten.gru.input: gru,
    aten.lstm_cell.default: lstm_cell,
    aten.gru_cell.default: gru_cell,
    aten._embedding_bag.default: embedding_bag,
    aten._embedding_bag_forward_only.default: embedding_bag,
}
