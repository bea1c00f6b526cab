"""Plans the streaming of a program's weights through a window.

The weights are laid out anew, in the order in which calls use them, so that most blocks are one
read. Blocks take their places in the window one behind the other, from its beginning again where
the end is too near; the runtime reads a block as soon as what lay in its place was given up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from optc.backends.program import (
    Call,
    Copy,
    ExitIf,
    Operand,
    Program,
    Segment,
    Space,
    Switch,
    Weight,
    align,
    steps_of,
)
from optc.backends.streaming import PAGE, Block, Gather, Piece, Rows, Stream

PINNED = 64 << 10  # bytes up to which a weight that several calls read stays in memory
TINY = 1 << 10  # and any weight: a read costs more than the memory
# What a C program takes before it loads a model: itself, libc, stacks, the runtime's own tables.
PROCESS = 4 << 20


@dataclass(frozen=True)
class Needs:
    """What streaming a program takes: the weights by the way they come, and the largest block."""

    program: Program
    pinned: tuple[Weight, ...]
    streamed: tuple[Weight, ...]
    tables: tuple[Weight, ...]
    table_rows: int
    largest: int  # bytes of the largest block
    culprit: str  # the label of its call

    @property
    def pinned_bytes(self) -> int:
        """Bytes that stay in memory."""
        return sum(align(weight.nbytes) for weight in self.pinned)

    @property
    def streamed_bytes(self) -> int:
        """Bytes of all that passes through the window, once."""
        return sum(align(weight.nbytes) for weight in self.streamed)

    @property
    def fixed_bytes(self) -> int:
        """All that a call needs but the window."""
        program = self.program
        rest = program.arena_bytes + program.state_bytes + program.port_bytes
        return rest + self.pinned_bytes + self.table_rows

    @property
    def least(self) -> int:
        """The smallest peak that streaming can reach."""
        return self.fixed_bytes + self.largest


def process_bytes(program: Program) -> int:
    """What a process around the model takes at most: a small C program, and the kernels' code."""
    return PROCESS + sum(map(len, dict.fromkeys(program.objects)))


def needs_of(program: Program) -> Needs:
    """How each weight of a program would come if they were streamed."""
    uses = _Uses(program)
    ways: dict[str, list[Weight]] = {"pinned": [], "streamed": [], "table": []}
    for weight in sorted(program.weights, key=lambda weight: weight.offset):
        ways[uses.way(weight)].append(weight)
    streamed = {weight.offset for weight in ways["streamed"]}
    tables = {weight.offset for weight in ways["table"]}
    largest, culprit, most_rows = 0, "", 0
    for segment in program.segments:
        for call in segment.calls:
            sizes = [uses.at[offset].nbytes for offset in _offsets(call) & streamed]
            total = sum(map(align, sizes))
            if total > largest:
                largest, culprit = total, call.label
            rows = sum(g.resident for at, g in _gathered(program, call) if at in tables)
            most_rows = max(most_rows, rows)
    groups = (tuple(ways["pinned"]), tuple(ways["streamed"]), tuple(ways["table"]))
    return Needs(program, *groups, most_rows, largest, culprit)


def stream(needs: Needs, window: int) -> Program:
    """The program with its weights streamed through `window` bytes, at least the largest block.

    A window that would hold all of them at once becomes memory that they stay in.
    """
    if window < needs.largest:
        raise ValueError(f"a window of {window} bytes cannot hold {needs.largest}")
    if window >= needs.streamed_bytes:  # room for all of it: to be read once, not in every call
        pinned = (*needs.pinned, *needs.streamed)
        needs = replace(needs, pinned=pinned, streamed=(), largest=0)
    program = needs.program
    window = min(window // PAGE * PAGE or window, align(needs.streamed_bytes))
    window = max(window, needs.largest)
    layout = _Layout(needs)
    places = _Places(program, layout, window)
    segments = tuple(places.segment(segment) for segment in program.segments)
    plan = Stream(
        window,
        needs.pinned_bytes,
        layout.tables_bytes,
        needs.table_rows,
        {name: tuple(blocks) for name, blocks in places.blocks.items() if blocks},
        {name: tuple(rows) for name, rows in places.rows.items() if rows},
    )
    states = tuple(
        slot if slot.initial is None else replace(slot, initial=layout.moved[slot.initial])
        for slot in program.states
    )
    return replace(
        program, segments=segments, weights=tuple(layout.weights), states=states, stream=plan
    )


def _operands(call: Call | Copy) -> tuple[Operand, ...]:
    return call.operands if isinstance(call, Call) else (call.source, call.target)


def _offsets(call: Call | Copy) -> set[int]:
    return {operand.offset for operand in _operands(call) if operand.space is Space.WEIGHTS}


def _gathered(program: Program, call: Call | Copy) -> Iterator[tuple[int, Gather]]:
    """The weights that a call reads in picked rows, by offset."""
    if isinstance(call, Call):
        for gather in program.gathers.get(call.symbol, ()):
            operand = call.operands[gather.table]
            if operand.space is Space.WEIGHTS:
                yield operand.offset, gather


class _Uses:
    """Who reads each weight, by offset."""

    def __init__(self, program: Program) -> None:
        self.at = {weight.offset: weight for weight in program.weights}
        self.kept = {slot.initial for slot in program.states if slot.initial is not None}
        self.calls: dict[int, int] = {}
        self.rows: dict[int, int] = {}
        for step in steps_of(program.flow):
            match step:
                case ExitIf(flag=operand) | Switch(index=operand):
                    self.kept |= {operand.offset} if operand.space is Space.WEIGHTS else set()
        for segment in program.segments:
            for call in segment.calls:
                self._read(program, call)

    def _read(self, program: Program, call: Call | Copy) -> None:
        offsets = _offsets(call)
        if isinstance(call, Copy):
            self.kept |= offsets
        for offset in offsets:
            self.calls[offset] = self.calls.get(offset, 0) + 1
        operands = [o.offset for o in _operands(call) if o.space is Space.WEIGHTS]
        for offset, _ in _gathered(program, call):
            if operands.count(offset) == 1:
                self.rows[offset] = self.rows.get(offset, 0) + 1

    def way(self, weight: Weight) -> str:
        """`pinned`, `streamed` or `table`."""
        calls = self.calls.get(weight.offset, 0)
        if weight.offset in self.kept or weight.nbytes <= TINY:
            return "pinned"
        if calls and self.rows.get(weight.offset, 0) == calls:
            return "table"
        return "pinned" if calls > 1 and weight.nbytes <= PINNED else "streamed"


class _Layout:
    """The weights file in its new order: what stays, what passes, tables."""

    def __init__(self, needs: Needs) -> None:
        self.moved: dict[int, int] = {}
        self.weights: list[Weight] = []
        self.nbytes: dict[int, int] = {}  # of streamed weights, by old offset
        self.tables: dict[int, int] = {}  # places in the tables' address space, by old offset
        self.tables_bytes = 0
        end = 0
        for weight in (*needs.pinned, *needs.streamed, *needs.tables):
            self.moved[weight.offset] = end
            self.weights.append(replace(weight, offset=end))
            end += align(weight.nbytes)
        for weight in needs.streamed:
            self.nbytes[weight.offset] = weight.nbytes
        for weight in needs.tables:
            self.tables[weight.offset] = self.tables_bytes
            # On pages of its own: they are given back without a look at other tables.
            self.tables_bytes += align(weight.nbytes, PAGE)


@dataclass
class _Places:
    """Gives blocks their places in the window, in the order of the program."""

    program: Program
    layout: _Layout
    window: int
    cursor: int = 0
    blocks: dict[str, list[Block]] = field(default_factory=dict)
    rows: dict[str, list[Rows]] = field(default_factory=dict)

    def segment(self, segment: Segment) -> Segment:
        """The segment with addresses in the window and the tables."""
        self.blocks[segment.name], self.rows[segment.name] = [], []
        calls = enumerate(segment.calls)
        return replace(segment, calls=tuple(self.call(segment.name, *item) for item in calls))

    def call(self, segment: str, number: int, call: Call | Copy) -> Call | Copy:
        """The call with its block and rows planned."""
        places = self.block(segment, number, call)
        for offset, gather in _gathered(self.program, call):
            if offset in self.layout.tables:
                source, at = self.layout.moved[offset], self.layout.tables[offset]
                self.rows[segment].append(Rows(number, gather, source, at))

        def moved(operand: Operand) -> Operand:
            return _moved(operand, self.layout, places)

        if isinstance(call, Copy):
            return replace(call, source=moved(call.source), target=moved(call.target))
        return replace(call, operands=tuple(map(moved, call.operands)))

    def block(self, segment: str, number: int, call: Call | Copy) -> Mapping[int, int]:
        """Plan the block of a call; where in the window each of its weights lies."""
        layout = self.layout
        offsets = sorted(_offsets(call) & layout.nbytes.keys(), key=layout.moved.__getitem__)
        sizes = [align(layout.nbytes[offset]) for offset in offsets]
        if not offsets:
            return {}
        start = self.cursor if self.cursor + sum(sizes) <= self.window else 0
        self.cursor = start + sum(sizes)
        places: dict[int, int] = {}
        pieces: list[Piece] = []
        for offset, size in zip(offsets, sizes, strict=True):
            places[offset] = start + sum(piece.nbytes for piece in pieces)
            pieces.append(Piece(layout.moved[offset], places[offset], size))
        joined = tuple(_joined(pieces))
        self.blocks[segment].append(Block(number, start, sum(sizes), joined))
        return places


def _moved(operand: Operand, layout: _Layout, places: Mapping[int, int]) -> Operand:
    if operand.space is not Space.WEIGHTS:
        return operand
    if operand.offset in places:
        return replace(operand, space=Space.WINDOW, offset=places[operand.offset])
    if operand.offset in layout.tables:
        return replace(operand, space=Space.TABLES, offset=layout.tables[operand.offset])
    return replace(operand, offset=layout.moved[operand.offset])


def _joined(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Neighbours in the file as one read."""
    last: Piece | None = None
    for piece in pieces:
        if last is not None and last.source + last.nbytes == piece.source:
            last = replace(last, nbytes=last.nbytes + piece.nbytes)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last
