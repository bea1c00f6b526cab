"""What model.c says of streamed weights: tables of reads, and what stands around a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from optc.backends.program import Call, ExitIf, Operand, Program, RunSegment, Step, Switch
from optc.backends.streaming import Block, Rows
from optc.ir.diagnostics import InternalError


@dataclass(frozen=True, slots=True)
class Visit:
    """One place in the flow that runs a segment, and the visit expected after it, if one is."""

    segment: str
    next: int | None


def visits_of(flow: Sequence[Step]) -> list[Visit]:
    """The visits in the order in which the flow is written.

    After the last one a call begins again; exits are expected not to be taken, and nothing is
    expected of a switch.
    """
    found: list[Visit] = []
    _visit(flow, _beginning(flow), found, _beginning(flow))
    return found


def _beginning(flow: Sequence[Step]) -> int | None:
    return _following(flow, 0, None)


def _visit(steps: Sequence[Step], after: int | None, found: list[Visit], again: int | None) -> None:
    for position, step in enumerate(steps):
        match step:
            case RunSegment(name=name):
                here = len(found)
                found.append(Visit(name, None))
                found[here] = Visit(name, _following(steps[position + 1 :], here + 1, after))
            case ExitIf(steps=inner):
                _visit(inner, again, found, again)
            case Switch(cases=cases):
                behind = len(found) + sum(map(_runs, cases))
                expected = _following(steps[position + 1 :], behind, after)
                for case in cases:
                    _visit(case, expected, found, again)


def _following(steps: Sequence[Step], number: int, after: int | None) -> int | None:
    """The first visit of `steps`, the first of which has `number` if it is one; else `after`."""
    for step in steps:
        match step:
            case RunSegment():
                return number
            case Switch():
                return None
            case ExitIf(steps=inner):
                number += _runs(inner)
    return after


def _runs(steps: Sequence[Step]) -> int:
    """How many visits are in `steps`, the nested ones too."""
    count = 0
    for step in steps:
        match step:
            case RunSegment():
                count += 1
            case ExitIf(steps=inner):
                count += _runs(inner)
            case Switch(cases=cases):
                count += sum(map(_runs, cases))
    return count


def stream_tables(program: Program) -> list[str]:
    """The constants of streaming; none for weights that are mapped."""
    if program.stream is None:
        return []
    blocks = _blocks(program)
    pieces = [piece for block in blocks for piece in block.pieces]
    starts = accumulate((len(block.pieces) for block in blocks), initial=0)
    rows = [item for segment in program.segments for item in _rows(program, segment.name)]
    visits = _visit_rows(program)
    tables = {
        "struct optc_rt_piece": ("pieces", [f"{p.source}u, {p.at}u, {p.nbytes}u" for p in pieces]),
        "struct optc_rt_block_plan": (
            "blocks",
            [
                f"{start}, {len(block.pieces)}, {block.at}u, {block.nbytes}u"
                for start, block in zip(starts, blocks, strict=False)
            ],
        ),
        "struct optc_rt_visit": ("visits", [", ".join(map(str, row)) for row in visits]),
        "struct optc_rt_rows": ("rows", list(map(_rows_entry, rows))),
    }
    first = _expected(program, _beginning(program.flow))
    plan = program.stream
    fields = {
        "window_bytes": f"{plan.window}u",
        "pinned_bytes": f"{plan.pinned}u",
        "tables_bytes": f"{plan.tables}u",
        "block_count": str(len(blocks)),
        "first_visit": str(first),
        **{name: name for name, entries in tables.values() if entries},
    }
    lines = ["/* Weights that stay in the file: what is read where, and in which order. */"]
    for ctype, (name, entries) in tables.items():
        if entries:
            lines += [f"static const {ctype} {name}[] = {{"]
            lines += [*(f"    {{{entry}}}," for entry in entries), "};"]
    lines += ["static const struct optc_rt_stream_plan stream = {"]
    return [*lines, *(f"    .{name} = {value}," for name, value in fields.items()), "};"]


def _blocks(program: Program) -> list[Block]:
    return [block for segment in program.segments for block in _of(program, segment.name)]


def _of(program: Program, segment: str) -> tuple[Block, ...]:
    return program.stream.blocks.get(segment, ()) if program.stream else ()


def _rows(program: Program, segment: str) -> tuple[Rows, ...]:
    return program.stream.rows.get(segment, ()) if program.stream else ()


def _rows_entry(item: Rows) -> str:
    gather = item.gather
    return (
        f"{item.source}u, {item.at}u, {gather.rows}u, {gather.row_bytes}u, {gather.count}u, "
        f"{gather.index_bytes}u"
    )


def _visit_rows(program: Program) -> list[tuple[int, int, int]]:
    """First block, number of blocks and expected visit of each visit."""
    first: dict[str, int] = {}
    count = 0
    for segment in program.segments:
        first[segment.name] = count
        count += len(_of(program, segment.name))
    return [
        (first[visit.segment], len(_of(program, visit.segment)), _expected(program, visit.next))
        for visit in visits_of(program.flow)
    ]


def _expected(program: Program, visit: int | None) -> int:
    """The first visit from `visit` on that has blocks; -1 where none is expected."""
    visits = visits_of(program.flow)
    seen: set[int] = set()
    while visit is not None and visit < len(visits) and visit not in seen:
        if _of(program, visits[visit].segment):
            return visit
        seen.add(visit)
        visit = visits[visit].next
    return -1


@dataclass(frozen=True, slots=True)
class Surround:
    """Statements before and after a call."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def surrounds(
    program: Program, address: Callable[[Operand], str]
) -> Mapping[tuple[str, int], Surround]:
    """What surrounds calls with streamed weights, by segment and number in it."""
    found: dict[tuple[str, int], Surround] = {}
    block_number = rows_number = 0
    for segment in program.segments:
        for block in _of(program, segment.name):
            wait = f"OPTC_RT_DO(optc_rt_stream_wait(m, {block_number}));"
            found[segment.name, block.call] = Surround((wait,), ("optc_rt_stream_release(m);",))
            block_number += 1
        for item in _rows(program, segment.name):
            call = segment.calls[item.call]
            if not isinstance(call, Call):
                raise InternalError("a copy does not pick rows")
            indices = address(call.operands[item.gather.indices])
            key = segment.name, item.call
            around = found.get(key, Surround())
            read = f"OPTC_RT_DO(optc_rt_stream_rows(m, {rows_number}, {indices}));"
            drop = f"optc_rt_stream_drop(m, {rows_number});"
            found[key] = Surround((*around.before, read), (*around.after, drop))
            rows_number += 1
    return found
