"""Judges a program before any C is written: every address inside its space, every name known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from optc.backends.aot.check_stream import check_stream
from optc.backends.program import (
    ALIGNMENT,
    Call,
    Copy,
    ExitIf,
    Launch,
    Operand,
    Port,
    Program,
    RunSegment,
    Segment,
    Space,
    StateSlot,
    Switch,
    Weight,
    steps_of,
)

_READ_ONLY = (Space.INPUT, Space.WEIGHTS, Space.WINDOW, Space.TABLES)
# What every GPU from compute capability 7.5 on takes (CUDA C Programming Guide, table 30).
_GRID = (2**31 - 1, 65535, 65535)
_BLOCK = (1024, 1024, 64)
_THREADS = 1024
_OPERANDS = 256  # MAX_OPERANDS of runtime/cuda.c
_SHARED = 227 << 10  # the most that a block can have, on 9.0


def check_program(program: Program) -> list[str]:
    """What is wrong with a program, one sentence each; the driver relies on an empty list."""
    sizes = _Sizes.of(program)
    return [
        *_names(program),
        *_blocks("weight", program.weights),
        *_blocks("state", program.states),
        *_initial_states(program),
        *(problem for segment in program.segments for problem in _segment(sizes, segment)),
        *_flow(program, sizes),
        *_device(program),
        *check_stream(program),
    ]


def _names(program: Program) -> Iterator[str]:
    groups = {
        "segments": [segment.name for segment in program.segments],
        "inputs": [port.name for port in program.inputs],
        "outputs": [port.name for port in program.outputs],
        "states": [slot.name for slot in program.states],
        "exits": [
            step.name for step in steps_of(program.flow) if isinstance(step, ExitIf) and step.name
        ],
    }
    for kind, names in groups.items():
        yield from (
            f"two {kind} are called {n!r}" for n, times in Counter(names).items() if times > 1
        )


def _blocks(kind: str, blocks: Sequence[Weight | StateSlot]) -> Iterator[str]:
    end = 0
    for block in sorted(blocks, key=lambda block: block.offset):
        if block.offset % ALIGNMENT:
            yield f"a {kind} block at {block.offset} is not aligned to {ALIGNMENT}"
        if block.offset < end:
            yield f"two {kind} blocks overlap at {block.offset}"
        end = block.offset + block.nbytes


def _initial_states(program: Program) -> Iterator[str]:
    weights = program.weights_bytes
    for slot in program.states:
        if slot.initial is not None and not 0 <= slot.initial <= weights - slot.nbytes:
            yield f"state {slot.name!r} starts from bytes outside of the weights"


def _segment(sizes: _Sizes, segment: Segment) -> Iterator[str]:
    for call in segment.calls:
        where = f"segment {segment.name!r}, {call.label or 'a call'}"
        match call:
            case Call(operands=operands):
                # A kernel's operand may have no element, so an address at the very end is right.
                checks = [(operand, 0) for operand in operands]
            case Copy(source=source, target=target, nbytes=nbytes):
                checks = [(source, nbytes), (target, nbytes)]
                if target.space in _READ_ONLY:
                    yield f"{where}: it writes to {target.space.value}, which is read only"
        for operand, nbytes in checks:
            yield from (f"{where}: {problem}" for problem in _operand(sizes, operand, nbytes))


def _device(program: Program) -> Iterator[str]:
    calls = [c for s in program.segments for c in s.calls if isinstance(c, Call)]
    if program.device is None:
        yield from (f"{c.symbol} is launched, but there is no code" for c in calls if c.launches)
        return
    if not re.fullmatch(r"sm_[1-9][0-9]+", program.device.architecture):
        yield f"{program.device.architecture!r} is not a GPU architecture such as 'sm_80'"
    if program.objects:
        yield "a program for a GPU has CPU kernels"
    for call in calls:
        if not call.launches:
            yield f"{call.symbol} is not launched, but the program is for a GPU"
        for launch in call.launches:
            yield from (f"{launch.symbol}: {problem}" for problem in _launch(call, launch))


def _launch(call: Call, launch: Launch) -> Iterator[str]:
    yield from _sizes_of(launch)
    if len(launch.operands) > _OPERANDS:
        yield f"{len(launch.operands)} operands, more than {_OPERANDS}"
    for index in launch.operands:
        if not 0 <= index < len(call.operands):
            yield f"operand {index} of {len(call.operands)}"


def _sizes_of(launch: Launch) -> Iterator[str]:
    if not launch.symbol.isidentifier():
        yield "it is no name of a kernel"
    for what, sizes, limits in (("grid", launch.grid, _GRID), ("block", launch.block, _BLOCK)):
        if not all(1 <= n <= m for n, m in zip(sizes, limits, strict=True)):
            yield f"{what} {sizes} is not within {limits}"
    if prod(launch.block) > _THREADS:
        yield f"a block has {prod(launch.block)} threads, more than {_THREADS}"
    if not 0 <= launch.shared_bytes <= _SHARED:
        yield f"{launch.shared_bytes} bytes of shared memory, not within {_SHARED}"


def _flow(program: Program, sizes: _Sizes) -> Iterator[str]:
    names = {segment.name for segment in program.segments}
    for step in steps_of(program.flow):
        match step:
            case RunSegment(name=name) if name not in names:
                yield f"the flow runs segment {name!r}, which does not exist"
            case ExitIf(flag=flag):
                yield from (f"an exit's flag: {problem}" for problem in _operand(sizes, flag, 1))
            case Switch(index=index, cases=cases):
                yield from (f"a switch's index: {p}" for p in _operand(sizes, index, 4))
                if not cases:
                    yield "a switch has no cases"


def _operand(sizes: _Sizes, operand: Operand, nbytes: int) -> Iterator[str]:
    ports = sizes.ports.get(operand.space)
    if ports is not None:
        if not 0 <= operand.offset < len(ports):
            yield f"{operand.space.value} {operand.offset} of {len(ports)}"
            return
        start, limit = operand.start, ports[operand.offset].nbytes
    else:
        start, limit = operand.offset + operand.start, sizes.spaces[operand.space]
    if start < 0 or start + nbytes > limit:
        what = f"{operand.space.value} has {limit} bytes"
        yield f"{what}, an address of {nbytes} bytes starts at {start}"


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of each space, and the ports: found once, since every operand asks."""

    spaces: Mapping[Space, int]
    ports: Mapping[Space, Sequence[Port]]

    @staticmethod
    def of(program: Program) -> _Sizes:
        stream = program.stream
        spaces = {
            Space.ARENA: program.arena_bytes,
            Space.WEIGHTS: program.weights_bytes,
            Space.STATE: program.state_bytes,
            Space.WINDOW: stream.window if stream else 0,
            Space.TABLES: stream.tables if stream else 0,
        }
        return _Sizes(spaces, {Space.INPUT: program.inputs, Space.OUTPUT: program.outputs})
