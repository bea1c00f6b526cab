"""Plans of a window for weights: every call finds what it reads, however eager the reader is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from optc.backends.aot.check_program import check_program
from optc.backends.aot.stream_plan import needs_of, stream
from optc.backends.program import (
    Call,
    Copy,
    Operand,
    Program,
    RunSegment,
    Segment,
    Space,
    StateSlot,
    place_weights,
)
from optc.backends.streaming import Gather
from optc.ir.dtype import DType

N = 1024
ARENA = Operand(Space.ARENA, 0), Operand(Space.ARENA, 4 * N)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Calls that read some of several weights, in segments; states, copies and picked rows too."""
    sizes = draw(st.lists(st.integers(1, 9000), min_size=1, max_size=12))
    weights = place_weights([np.zeros(size, np.uint8) for size in sizes])
    one = st.sampled_from([Operand(Space.WEIGHTS, weight.offset) for weight in weights])
    segments = []
    for name in "abc"[: draw(st.integers(1, 3))]:
        calls: list[Call | Copy] = []
        for number in range(draw(st.integers(0, 6))):
            read = draw(st.lists(one, max_size=4))
            calls.append(Call(f"k{number}", (*read, ARENA[0]), f"{name}{number}"))
        if draw(st.booleans()):
            calls.append(Copy(draw(one), ARENA[0], 1))
        segments.append(Segment(name, tuple(calls)))
    gathers = {"k0": (Gather(0, 1, 3, 8, 10, 1),), "k1": (Gather(1, 0, 2, 4, 5, 1),)}
    kept = draw(one).offset
    states = (StateSlot("s", (1,), DType.U8, 0, kept),) if draw(st.booleans()) else ()
    flow = tuple(RunSegment(segment.name) for segment in segments)
    known = {k: v for k, v in gathers.items() if all(_has(s, k, v) for s in segments)}
    return Program(
        "p", (), (), tuple(segments), flow, (), "x86_64-linux-gnu",
        arena_bytes=8 * N, weights=weights, states=states, gathers=known,
    )  # fmt: skip


def _has(segment: Segment, symbol: str, gathers: Sequence[Gather]) -> bool:
    calls = [c for c in segment.calls if isinstance(c, Call) and c.symbol == symbol]
    return all(len(c.operands) > 1 + max(g.table for g in gathers) for c in calls)


def followed(program: Program) -> Iterator[tuple[str, int, dict[int, int]]]:
    """Each call with what lies in the window then: source of each byte's line, by its place.

    The reader here is as eager as can be: it reads whatever fits before each call.
    """
    plan = program.stream
    assert plan is not None
    queue = [
        (segment.name, block)
        for segment in program.segments
        for block in plan.blocks.get(segment.name, ())
    ]
    window: dict[int, int] = {}
    live: list[tuple[str, int, int, int]] = []
    coming = iter(queue)
    pending = next(coming, None)
    for segment in program.segments:
        for number in range(len(segment.calls)):
            while pending is not None:
                name, block = pending
                if any(at < block.at + block.nbytes and block.at < end for _, _, at, end in live):
                    break
                for piece in block.pieces:
                    for line in range(0, piece.nbytes, 64):
                        window[piece.at + line] = piece.source + line
                live.append((name, block.call, block.at, block.at + block.nbytes))
                pending = next(coming, None)
            yield segment.name, number, dict(window)
            if live and live[0][:2] == (segment.name, number):
                live.pop(0)
    assert pending is None
    assert not live


@given(programs(), st.data())
@settings(max_examples=150)
def test_every_call_finds_its_weights(program: Program, data: st.DataObject) -> None:
    needs = needs_of(program)
    extra = data.draw(st.integers(0, 40_000))
    streamed = stream(needs, needs.largest + extra)
    assert check_program(streamed) == []
    assert streamed.stream is not None
    assert streamed.stream.window <= needs.largest + extra
    assert streamed.peak_bytes <= needs.least + extra
    if needs.largest + extra >= needs.streamed_bytes:  # nothing is read in every call
        assert not any(streamed.stream.blocks.values())
    moved = {id(w.load): w for w in streamed.weights}
    place = {w.offset: moved[id(w.load)].offset for w in program.weights}
    before = {segment.name: segment for segment in program.segments}
    after = {segment.name: segment for segment in streamed.segments}
    for name, number, window in followed(streamed):
        for old, new in zip(
            *(_operands(s[name].calls[number]) for s in (before, after)), strict=True
        ):
            if old.space is not Space.WEIGHTS:
                assert new == old
                continue
            match new.space:
                case Space.WINDOW:
                    assert window[new.offset] == place[old.offset]
                case Space.WEIGHTS:
                    assert new.offset == place[old.offset] < max(streamed.stream.pinned, 1)
                case _:
                    rows = streamed.stream.rows[name]
                    assert next(r.source for r in rows if r.at == new.offset) == place[old.offset]


def _operands(call: Call | Copy) -> tuple[Operand, ...]:
    return call.operands if isinstance(call, Call) else (call.source, call.target)
