"""Bytes of four rows side by side: what `vpdpbusd` multiplies with the taps of one channel.

Element j of a word vector holds the bytes that four vectors have at channel j. Shuffles within 128
bits (`punpck`) put them together; the channels of every source are permuted before, four at a time,
so that the words come out in order. Twelve shuffles make four vectors of words.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.templates.loops import Code

_SECTION = 16  # bytes that x86's shuffles stay within; with one section they are in order


def halves_of(code: Code, rows: Sequence[Expr], width: int, signed: bool) -> list[Expr]:
    """Two rows of `width` bytes, to vectors of eight words as i32: each byte widened to a half.

    A shuffle and an extension make eight words.
    """
    kind = "int8" if signed else "uint8"
    found = []
    for start in range(0, width, _SECTION // 2):
        chosen = [at + row for at in range(start, start + _SECTION // 2) for row in (0, width)]
        pairs = tirx.reinterpret(f"{kind}x{_SECTION}", _shuffle(code, rows, chosen, "int8"))
        found.append(tirx.reinterpret("int32x8", tirx.Cast(f"int16x{_SECTION}", pairs)))
    return found


def words_of(code: Code, rows: Sequence[Expr], width: int) -> list[Expr]:
    """Four rows of `width` bytes, as vectors, to four vectors of `width` / 4 words, as i32.

    `width` is 16 times a power of two.
    """
    sections = width // _SECTION
    kind = f"int32x{width // 4}"
    sources = []
    for row in rows:
        if sections > 1:
            chosen = [_source(place, sections) for place in range(width // 4)]
            row = _shuffle(code, [tirx.reinterpret(kind, row)], chosen, "int32")
            row = tirx.reinterpret(f"int8x{width}", row)
        sources.append(row)
    pairs = [
        _unpacked(code, sources[first], sources[first + 1], 1, part)
        for first in (0, 2)
        for part in (0, 1)
    ]
    found = []
    for half in (0, 1):
        for part in (0, 1):
            both = _unpacked(code, pairs[half], pairs[2 + half], 2, part)
            found.append(tirx.reinterpret(kind, both))
    return found


def _source(place: int, sections: int) -> int:
    """Which four channels stand at `place` before: result k takes part k of each section."""
    section, part = divmod(place, 4)
    return part * sections + section


def _unpacked(code: Code, a: Expr, b: Expr, size: int, part: int) -> Expr:
    """Items of `size` bytes of a and b in turns: of the lower or upper half of each section."""
    width = int(str(a.ty).rpartition("x")[2])
    chosen = []
    for section in range(0, width, _SECTION):
        start = section + part * _SECTION // 2
        for at in range(start, start + _SECTION // 2, size):
            for source in (0, width):
                chosen += [source + at + byte for byte in range(size)]
    return _shuffle(code, [a, b], chosen, "int8")


def _shuffle(code: Code, vectors: Sequence[Expr], chosen: Sequence[int], dtype: str) -> Expr:
    lanes = len(chosen)
    result: Buffer = code.scratch("shuffled", (lanes,), dtype)
    place = tirx.Ramp(tirx.const(0, "int32"), tirx.const(1, "int32"), lanes)
    indices = [tirx.const(number, "int32") for number in chosen]
    code.store(result, (place,), tirx.Shuffle(list(vectors), indices))
    return tirx.BufferLoad(result, [place])
