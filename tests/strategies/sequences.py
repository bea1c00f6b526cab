"""Instances of matrix products, attention, recurrent layers and bags."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from optc.ir.dtype import DType
from optc.ir.ops import Attention, BagMode, EmbeddingBag, Gru, Linear, Lstm, MatMul, Op
from optc.ir.ops.contraction import BYTES
from optc.ir.types import TensorType
from tests.strategies.quantized import sometimes_bytes
from tests.strategies.shapes import FLOATS, INDICES, broadcastable, dtypes, shapes
from tests.strategies.values import Ascending, Normal, Values, Whole

Parts = tuple[Op, list[TensorType], list[Values]]
_SIZES = st.sampled_from((1, 2, 3, 5, 8, 16, 17, 33))


def _matmul(draw: DrawFn, _: type[Op]) -> Parts:
    dtype, batch = draw(dtypes((*FLOATS, DType.I32, DType.I64))), draw(shapes(0, 2))
    m, k, n = draw(_SIZES), draw(_SIZES), draw(_SIZES)
    turned = draw(st.booleans())
    a = TensorType((*_few(draw(broadcastable(batch))), m, k), dtype)
    b = TensorType((*_few(draw(broadcastable(batch))), *((n, k) if turned else (k, n))), dtype)
    return MatMul(turned), [a, b], [Normal(1.0)] * 2


def _few(batch: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dim if dim <= 4 else 1 for dim in batch)


def _linear(draw: DrawFn, _: type[Op]) -> Parts:
    k, n = draw(_SIZES), draw(_SIZES)
    x = TensorType((*_few(draw(shapes(0, 2))), k), draw(dtypes(FLOATS)))
    bias = [x.with_shape((n,))] if draw(st.booleans()) else []
    return Linear(), [x, x.with_shape((n, k)), *bias], [Normal(1.0)] * (2 + len(bias))


def _attention(draw: DrawFn, _: type[Op]) -> Parts:
    dtype, batch = draw(dtypes(FLOATS)), _few(draw(shapes(0, 1)))
    group, repeats = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    s, t, d, e = (draw(st.sampled_from((1, 2, 5, 8, 17))) for _ in range(4))
    q = TensorType((*batch, group * repeats, s, d), dtype)
    types = [q, q.with_shape((*batch, group, t, d)), q.with_shape((*batch, group, t, e))]
    if draw(st.booleans()):
        shape = draw(broadcastable((*batch, group * repeats, s, t)))
        types.append(TensorType(shape, draw(dtypes((DType.BOOL, dtype)))))
    op = Attention(draw(st.sampled_from((1.0, 0.25))), draw(st.booleans()))
    return op, types, [Normal(1.0)] * len(types)


def _recurrent(draw: DrawFn, kind: type[Op]) -> Parts:
    dtype, gates = draw(dtypes(FLOATS)), 4 if kind is Lstm else 3
    steps, batch = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    inner, hidden = draw(st.sampled_from((1, 3, 8))), draw(st.sampled_from((1, 5, 16, 17, 40)))
    rows = gates * hidden
    states = [(batch, hidden)] * (2 if kind is Lstm else 1)
    shapes_ = [(steps, batch, inner), *states, (rows, inner), (rows, hidden), (rows,), (rows,)]
    types = [TensorType(shape, dtype) for shape in shapes_]
    return kind(draw(st.booleans())), types, [Normal(0.5)] * len(types)  # type: ignore[call-arg]


def _embedding_bag(draw: DrawFn, _: type[Op]) -> Parts:
    rows, width, count = draw(_SIZES), draw(_SIZES), draw(st.integers(1, 20))
    bags, dtype = draw(st.integers(1, 6)), draw(dtypes(FLOATS))
    mode, index = draw(st.sampled_from(BagMode)), draw(dtypes(INDICES))
    types = [TensorType(s, d) for s, d in (((rows, width), dtype), ((count,), index))]
    types.append(TensorType((bags,), index))
    values: list[Values] = [Normal(1.0), Whole(0, rows - 1), Ascending(count)]
    if mode is BagMode.SUM and draw(st.booleans()):
        types.append(TensorType((count,), dtype))
        values.append(Normal(1.0))
    return EmbeddingBag(mode), types, values


MAKERS: Mapping[type[Op], Callable[[DrawFn, type[Op]], Parts]] = {
    MatMul: sometimes_bytes(_matmul, weight=BYTES),
    Linear: sometimes_bytes(_linear),
    Attention: _attention,
    Lstm: _recurrent,
    Gru: _recurrent,
    EmbeddingBag: _embedding_bag,
}
