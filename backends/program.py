"""The hand-over between kernel builders and the packager: which kernels run, in which order, on which bytes.

A `Program` knows no op and no tensor expression: only objects, addresses and control flow. Kernels
are plain C functions `int32_t symbol(void *, void *, ...)`, inputs first, then outputs, then
workspaces; they return 0 when all went well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.ir.dtype import DType

ALIGNMENT = 64  # bytes: every offset in the arena, the weights and the state; a cache line


class Space(Enum):
    """What an operand's offset counts from."""

    ARENA = "arena"
    WEIGHTS = "weights"
    STATE = "state"
    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Operand:
    """An address that a kernel gets.

    `offset` is in bytes for ARENA, WEIGHTS and STATE, and says which one for INPUT and OUTPUT;
    there `start` moves the address by that many bytes into the user's buffer.
    """

    space: Space
    offset: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel call; `flops` and `bytes` are what it computes and moves, `label` is for people."""

    symbol: str
    operands: tuple[Operand, ...]
    label: str = ""
    flops: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """Move `nbytes` bytes, for an output that is an input, a constant or a state, and for state updates."""

    source: Operand
    target: Operand
    nbytes: int
    label: str = "copy"


@dataclass(frozen=True, slots=True)
class Segment:
    """Calls that run straight through, one after the other."""

    name: str
    calls: tuple[Call | Copy, ...]


@dataclass(frozen=True, slots=True)
class RunSegment:
    """Run all calls of a segment."""

    name: str


@dataclass(frozen=True, slots=True)
class ExitIf:
    """Where the byte at `flag` is not zero: take `steps` (which write the outputs) and end the run."""

    flag: Operand
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Switch:
    """Take the case that the i32 at `index` names; an index below 0 or past the end takes the last."""

    index: Operand
    cases: tuple[tuple[Step, ...], ...]


Step = RunSegment | ExitIf | Switch


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the artifact's user sees it: dense, row major."""

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def nbytes(self) -> int:
        """Bytes of the dense array."""
        return self.dtype.nbytes(prod(self.shape))


@dataclass(frozen=True, slots=True)
class StateSlot:
    """A buffer that lives from call to call; it starts as weights at `initial`, or as zeros."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    offset: int
    initial: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the dense array."""
        return self.dtype.nbytes(prod(self.shape))


@dataclass(frozen=True, slots=True)
class Weight:
    """One block of the weights: `load` gives its array when it is written, so that big ones stay on disk."""

    offset: int
    nbytes: int
    load: Callable[[], NDArray[Any]] = field(compare=False)

    @staticmethod
    def of(offset: int, array: NDArray[Any]) -> Weight:
        """A block for an array that is at hand."""
        return Weight(offset, array.nbytes, lambda: array)


def place_weights(arrays: Sequence[NDArray[Any]]) -> tuple[Weight, ...]:
    """Blocks for `arrays` one behind the other, each aligned."""
    blocks: list[Weight] = []
    offset = 0
    for array in arrays:
        blocks.append(Weight.of(offset, array))
        offset += align(array.nbytes)
    return tuple(blocks)


def align(nbytes: int, to: int = ALIGNMENT) -> int:
    """`nbytes` rounded up to a multiple of `to`."""
    return -(-nbytes // to) * to


@dataclass(frozen=True, slots=True)
class Program:
    """All that the packager needs to make an artifact.

    `triple`, `cpu` and `features` name the target in LLVM's words (`x86_64-linux-gnu`, `skylake`,
    `("avx2", "fma")`); the artifact refuses to load where one of `features` is missing.
    `output_tree` is the structure that a Python caller gets back: an int is an output's index,
    `{"tuple": [...]}`, `{"list": [...]}` and `{"dict": {...}}` nest, null is None; without it the
    caller gets the only output, or a tuple.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    segments: tuple[Segment, ...]
    flow: tuple[Step, ...]
    objects: tuple[bytes, ...]
    triple: str
    cpu: str = ""
    features: tuple[str, ...] = ()
    arena_bytes: int = 0
    weights: tuple[Weight, ...] = ()
    states: tuple[StateSlot, ...] = ()
    output_tree: Any = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights with padding, a multiple of the alignment."""
        return align(max((block.offset + block.nbytes for block in self.weights), default=0))

    @property
    def state_bytes(self) -> int:
        """Bytes of all state slots, a multiple of the alignment."""
        return align(max((slot.offset + slot.nbytes for slot in self.states), default=0))


def steps_of(flow: Sequence[Step]) -> Iterator[Step]:
    """Every step of `flow`, the nested ones behind the one that holds them."""
    for step in flow:
        yield step
        match step:
            case ExitIf(steps=steps):
                yield from steps_of(steps)
            case Switch(cases=cases):
                for case in cases:
                    yield from steps_of(case)


def check_program(program: Program) -> list[str]:
    """What is wrong with a program, one sentence each; an empty list is the promise the packager relies on."""
    problems = [*_check_layout(program), *_check_names(program)]
    for segment in program.segments:
        for call in segment.calls:
            where = f"segment {segment.name!r}, {call.label or 'a call'}"
            operands = call.operands if isinstance(call, Call) else (call.source, call.target)
            sizes = [1] * len(operands) if isinstance(call, Call) else [call.nbytes] * 2
            problems += [
                f"{where}: {problem}"
                for operand, size in zip(operands, sizes, strict=True)
                if (problem := _check_operand(program, operand, size))
            ]
            if isinstance(call, Copy) and call.target.space in (Space.INPUT, Space.WEIGHTS):
                problems.append(f"{where}: writes to {call.target.space.value}, which is read only")
    for step in steps_of(program.flow):
        operand_size = {ExitIf: 1, Switch: 4}.get(type(step))
        if operand_size:
            operand = step.flag if isinstance(step, ExitIf) else step.index  # type: ignore[union-attr]
            problem = _check_operand(program, operand, operand_size)
            problems += [f"flow: {problem}"] if problem else []
        if isinstance(step, Switch) and not step.cases:
            problems.append("flow: a switch without cases")
    return problems


def _check_names(program: Program) -> Iterator[str]:
    names = [segment.name for segment in program.segments]
    if len(set(names)) != len(names):
        yield "two segments have one name"
    for step in steps_of(program.flow):
        if isinstance(step, RunSegment) and step.name not in names:
            yield f"the flow runs segment {step.name!r}, which does not exist"
    for kind, ports in (("inputs", program.inputs), ("outputs", program.outputs)):
        if len({port.name for port in ports}) != len(ports):
            yield f"two {kind} have one name"


def _check_layout(program: Program) -> Iterator[str]:
    for kind, blocks in (("weight", program.weights), ("state", program.states)):
        end = 0
        for block in sorted(blocks, key=lambda block: block.offset):  # type: ignore[attr-defined]
            if block.offset % ALIGNMENT:  # type: ignore[attr-defined]
                yield f"a {kind} block at {block.offset} is not aligned to {ALIGNMENT}"  # type: ignore[attr-defined]
            if block.offset < end:  # type: ignore[attr-defined]
                yield f"two {kind} blocks overlap at {block.offset}"  # type: ignore[attr-defined]
            end = block.offset + block.nbytes  # type: ignore[attr-defined]
    for slot in program.states:
        if slot.initial is not None and slot.initial + slot.nbytes > program.weights_bytes:
            yield f"state {slot.name!r} starts from weights past their end"


def _check_operand(program: Program, operand: Operand, size: int) -> str:
    if operand.offset < 0 or operand.start < 0:
        return "a negative offset"
    ports = {Space.INPUT: program.inputs, Space.OUTPUT: program.outputs}.get(operand.space)
    if ports is not None:
        if operand.offset >= len(ports):
            return f"{operand.space.value} {operand.offset} of {len(ports)}"
        end, limit = operand.start + size, ports[operand.offset].nbytes
    else:
        limits = {
            Space.ARENA: program.arena_bytes,
            Space.WEIGHTS: program.weights_bytes,
            Space.STATE: program.state_bytes,
        }
        end, limit = operand.offset + operand.start + size, limits[operand.space]
    # A tensor without elements has no byte of its own, so an address at the very end is right for it.
    if end > max(limit, 0) + (1 if size == 1 else 0):
        return f"{operand.space.value} is {limit} bytes, the address reaches {end}"
    return ""


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The dense bytes of an array, without a copy where it is dense already."""
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).cast("B")
