"""Square transposes in registers: lanes x lanes elements in lanes * log2(lanes) shuffles."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.loops import Code


def transposed(code: Code, rows: Sequence[Buffer]) -> list[Buffer]:
    """Arrays of one vector each: element j of answer i is element i of `rows[j]`.

    As many rows as each has elements, a power of two. Swaps the off-diagonal quarters of blocks of
    2, 4, 8, ... (Eklundh 1972).
    """
    lanes = len(rows)
    found = list(rows)
    half = 1
    while half < lanes:
        for first in range(lanes):
            if not first & half:
                pair = (found[first], found[first + half])
                found[first], found[first + half] = _swapped(code, pair, half)
        half *= 2
    return found


def _swapped(code: Code, pair: tuple[Buffer, Buffer], half: int) -> tuple[Buffer, Buffer]:
    lanes = int(pair[0].shape[0])
    low = [lanes + lane - half if lane & half else lane for lane in range(lanes)]
    high = [lanes + lane if lane & half else lane + half for lane in range(lanes)]
    vectors = [_vector(item) for item in pair]
    return _shuffled(code, vectors, low), _shuffled(code, vectors, high)


def _shuffled(code: Code, vectors: Sequence[Expr], chosen: Sequence[int]) -> Buffer:
    lanes = len(chosen)
    result = code.scratch("shuffled", (lanes,), vectors[0].ty.dtype.split("x")[0])
    shuffle = tirx.Shuffle(vectors, [tirx.const(lane, "int32") for lane in chosen])
    code.store(result, (_ramp(lanes),), shuffle)
    return result


def _vector(buffer: Buffer) -> Expr:
    return tirx.BufferLoad(buffer, [_ramp(int(buffer.shape[0]))])


def _ramp(lanes: int) -> Expr:
    return tirx.Ramp(tirx.const(0, "int32"), tirx.const(1, "int32"), lanes)
