"""Judges the streaming of weights, knowing nothing of how it was planned."""

from __future__ import annotations

from collections.abc import Iterator

from optc.backends.program import Call, Copy, Operand, Program, Segment, Space
from optc.backends.streaming import Block, Rows, Stream


def check_stream(program: Program) -> Iterator[str]:
    """What is wrong, one sentence each: every byte a call reads is there when it begins."""
    plan = program.stream
    if plan is None:
        yield from _unplanned(program)
        return
    if program.device is not None:
        yield "weights of a program for a GPU cannot be streamed"
    resident = (slot for slot in program.states if slot.initial is not None)
    for slot in resident:
        if (slot.initial or 0) + slot.nbytes > plan.pinned:
            yield f"state {slot.name!r} starts from weights that do not stay"
    for segment in program.segments:
        yield from _segment(program, plan, segment)


def _unplanned(program: Program) -> Iterator[str]:
    for segment in program.segments:
        for call in segment.calls:
            if _spaces(call) & {Space.WINDOW, Space.TABLES}:
                yield f"{call.label}: its weights are streamed, and there is no plan for it"


def _spaces(call: Call | Copy) -> set[Space]:
    return {operand.space for operand in _operands(call)}


def _operands(call: Call | Copy) -> tuple[Operand, ...]:
    return call.operands if isinstance(call, Call) else (call.source, call.target)


def _segment(program: Program, plan: Stream, segment: Segment) -> Iterator[str]:
    blocks = {block.call: block for block in plan.blocks.get(segment.name, ())}
    calls = [block.call for block in plan.blocks.get(segment.name, ())]
    if calls != sorted(set(calls)):
        yield f"segment {segment.name!r}: its blocks are not in the order of its calls"
    for number, call in enumerate(segment.calls):
        where = f"segment {segment.name!r}, {call.label or 'a call'}"
        rows = [item for item in plan.rows.get(segment.name, ()) if item.call == number]
        for operand in _operands(call):
            problem = _operand(plan, operand, blocks.get(number), rows)
            if problem:
                yield f"{where}: {problem}"
        if number in blocks:
            yield from (f"{where}: {problem}" for problem in _block(program, plan, blocks[number]))
        yield from (f"{where}: {p}" for item in rows for p in _table(program, plan, item))


def _operand(plan: Stream, operand: Operand, block: Block | None, rows: list[Rows]) -> str:
    at = operand.offset + operand.start
    match operand.space:
        case Space.WEIGHTS if at > plan.pinned:
            return f"weights at {at} do not stay in memory"
        case Space.WINDOW if block is None:
            return "it reads the window, and nothing is read into it"
        case Space.WINDOW if block and not any(p.at <= at <= p.at + p.nbytes for p in block.pieces):
            return f"nothing is read to {at} of the window"
        case Space.TABLES if not any(item.at == at for item in rows):
            return f"no rows are read to {at} of the tables"
    return ""


def _block(program: Program, plan: Stream, block: Block) -> Iterator[str]:
    if block.at < 0 or block.at + block.nbytes > plan.window:
        yield f"its block ends at {block.at + block.nbytes} of {plan.window}"
    end = block.at
    for piece in sorted(block.pieces, key=lambda piece: piece.at):
        if piece.at < end or piece.at + piece.nbytes > block.at + block.nbytes:
            yield f"the piece at {piece.at} lies over another, or outside of its block"
        if piece.source < 0 or piece.source + piece.nbytes > program.weights_bytes:
            yield f"the piece at {piece.at} is read from outside of the weights"
        end = piece.at + piece.nbytes


def _table(program: Program, plan: Stream, item: Rows) -> Iterator[str]:
    nbytes = item.gather.rows * item.gather.row_bytes
    if item.at + nbytes > plan.tables or item.source + nbytes > program.weights_bytes:
        yield f"the table at {item.at} is not within the tables, or not within the weights"
    if item.gather.resident > plan.table_rows:
        yield f"its rows take {item.gather.resident} bytes of {plan.table_rows}"
