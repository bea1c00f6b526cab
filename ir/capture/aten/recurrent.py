"""ATen rules: recurrent layers, one IR op per layer and direction, never unrolled; bags of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def _layers(
    ctx: Context,
    x: Value,
    states: Sequence[Value],
    params: Sequence[Value],
    has_biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    op: type[Lstm] | type[Gru],
) -> list[Value]:
    """All layers: the sequence, then the last states, each [layers * directions, batch, size]."""
    unbatched = x.type.rank == 2
    if unbatched:
        x = ctx.unsqueeze(x, 1)
        states = [ctx.unsqueeze(state, 1) for state in states]
    elif batch_first:
        x = ctx.permute(x, (1, 0, 2))
    directions, per_cell = 1 + bidirectional, 4 if has_biases else 2
    last: list[list[Value]] = [[] for _ in states]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            cell = layer * directions + direction
            weights = _gates(ctx, params[cell * per_cell : (cell + 1) * per_cell], has_biases)
            start = [
                ctx.reshape(ctx.slice(state, 0, cell, cell + 1), state.shape[1:])
                for state in states
            ]
            output, *ends = ctx.emit_all(op(reverse=bool(direction)), x, *start, *weights)
            outputs.append(output)
            for kept, end in zip(last, ends, strict=True):
                kept.append(ctx.unsqueeze(end, 0))
        x = ctx.concat(outputs, 2)
    if unbatched:
        x = ctx.reshape(x, (x.shape[0], x.shape[2]))
    elif batch_first:
        x = ctx.permute(x, (1, 0, 2))
    ends = [ctx.concat(kept, 0) for kept in last]
    if unbatched:
        ends = [ctx.reshape(end, (end.shape[0], end.shape[2])) for end in ends]
    return [x, *ends]


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
    args = (states, params, has_biases, layers, bidirectional, batch_first)
    return _layers(ctx, x, *args, Lstm)


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
    args = ([state], params, has_biases, layers, bidirectional, batch_first)
    return _layers(ctx, x, *args, Gru)


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
