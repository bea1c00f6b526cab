"""The hand-over from kernel builders to the packager: which kernels run, in which order, on what.

A `Program` knows no op and no tensor expression: only objects, addresses and control flow. Kernels
are plain C functions `int32_t symbol(void *, void *, ...)`, inputs first, then outputs, then
workspaces; they return 0 when all went well. On a GPU they are launches of CUDA kernels instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.backends.streaming import Gather, Stream
from optc.ir.dtype import DType

ALIGNMENT = 64  # bytes: every offset in the arena, the weights and the state; a cache line


class Space(Enum):
    """What an operand's offset counts from."""

    ARENA = "arena"
    WEIGHTS = "weights"
    STATE = "state"
    INPUT = "input"
    OUTPUT = "output"
    WINDOW = "window"  # streamed weights, see streaming.py
    TABLES = "tables"  # streamed weights of which rows are picked


@dataclass(frozen=True, slots=True)
class Operand:
    """An address that a kernel gets.

    `offset` is in bytes but for INPUT and OUTPUT. For INPUT and OUTPUT it says which one, and
    `start` moves the address by that many bytes into the user's buffer.
    """

    space: Space
    offset: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel on a GPU, with `grid` and `block` in (x, y, z).

    `operands` index the call's operands in the order of the kernel's parameters, which are plain
    device pointers; `shared_bytes` is dynamic shared memory.
    """

    symbol: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    operands: tuple[int, ...]
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A kernel call: `flops` and `bytes` it computes and moves, and a `label` for people.

    Both are the kernel's own: a Winograd convolution computes less than its definition takes. Of
    the bytes, `written` are written and `weights` are read of weights; `dtype` is the one whose
    multiply-adds its time goes to. `template` is what wrote the kernel.

    Without `launches` it is the C function `symbol` on the CPU; with them it is these, in order,
    on the GPU, and `symbol` only names it.
    """

    symbol: str
    operands: tuple[Operand, ...]
    label: str = ""
    flops: int = 0
    bytes: int = 0
    launches: tuple[Launch, ...] = ()
    written: int = 0
    weights: int = 0
    dtype: DType = DType.F32
    template: str = ""


@dataclass(frozen=True, slots=True)
class Copy:
    """Move `nbytes` bytes: an output that is an input or a constant, a state update."""

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
    """Where the byte at `flag` is not zero: take `steps`, which write the outputs, and end.

    An exit with a `name` is counted: its first step is a segment that nothing else runs.
    """

    flag: Operand
    steps: tuple[Step, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Switch:
    """Take the case that the i32 at `index` names; one that names none takes the last."""

    index: Operand
    cases: tuple[tuple[Step, ...], ...]


Step = RunSegment | ExitIf | Switch


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of the arena and how long they are held, both steps inclusive; see `Program.steps`."""

    name: str
    offset: int
    nbytes: int
    first: int
    last: int


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
    """A buffer that lives from call to call; it starts as weights at `initial`, or as zeros.

    A `parameter` is a number that calls read and only the user writes; a reset leaves it alone.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    offset: int
    initial: int | None = None
    parameter: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the dense array."""
        return self.dtype.nbytes(prod(self.shape))


@dataclass(frozen=True, slots=True)
class Weight:
    """A block of the weights: `load` gives its array when it is written, not before.

    `narrow`: each of its bytes fits in half a byte, see halves.py.
    """

    offset: int
    nbytes: int
    load: Callable[[], NDArray[Any]] = field(compare=False)
    narrow: bool = False

    @staticmethod
    def of(offset: int, array: NDArray[Any]) -> Weight:
        """A block for an array that is at hand."""
        return Weight(offset, array.nbytes, lambda: array)


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """The kernels of a GPU program: CUDA C, each `extern "C" __global__`, in one source.

    `architecture` is the oldest GPU it is for (`sm_80`); newer ones of other majors take it too.
    """

    architecture: str
    source: str


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
    caller gets the only output, or a tuple. With `device` every call is launches, the arena, the
    weights and the state lie in the GPU's memory, and `triple` is the host's. `gathers` says by
    kernel which weights are read in picked rows only; with `stream` weights stay in the file.
    `held` is what lies in the arena, and `steps` names the calls in the order of the flow as it is
    written, which is what its times count.
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
    device: DeviceCode | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    gathers: Mapping[str, tuple[Gather, ...]] = field(default_factory=dict)
    stream: Stream | None = None
    held: tuple[Held, ...] = ()
    steps: tuple[str, ...] = ()

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights with padding, a multiple of the alignment."""
        return align(max((block.offset + block.nbytes for block in self.weights), default=0))

    @property
    def narrow(self) -> tuple[Weight, ...]:
        """The blocks that the file holds in half bytes, in order; a stream has none."""
        if self.stream is not None:
            return ()
        return tuple(sorted((b for b in self.weights if b.narrow), key=lambda b: b.offset))

    @property
    def stored_bytes(self) -> int:
        """Bytes of the weights in their file, a multiple of the alignment."""
        return align(self.weights_bytes - sum(block.nbytes // 2 for block in self.narrow))

    @property
    def state_bytes(self) -> int:
        """Bytes of all state slots, a multiple of the alignment."""
        return align(max((slot.offset + slot.nbytes for slot in self.states), default=0))

    @property
    def port_bytes(self) -> int:
        """Bytes of all inputs and outputs, which the caller holds."""
        return sum(port.nbytes for port in (*self.inputs, *self.outputs))

    @property
    def resident_weights(self) -> int:
        """Bytes of memory that weights take at most: all of them, unless they are streamed."""
        return self.weights_bytes if self.stream is None else self.stream.resident

    @property
    def peak_bytes(self) -> int:
        """All that a call needs at once: arena with workspaces, state, weights, inputs, outputs."""
        return self.arena_bytes + self.state_bytes + self.resident_weights + self.port_bytes


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


def exits_of(program: Program) -> tuple[tuple[str, int], ...]:
    """The exits that are counted, in order: name, and which segment runs where it is taken."""
    order = {segment.name: index for index, segment in enumerate(program.segments)}
    found: list[tuple[str, int]] = []
    for step in steps_of(program.flow):
        match step:
            case ExitIf(name=name, steps=(RunSegment(name=segment), *_)) if name:
                found.append((name, order[segment]))
    return tuple(found)


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The dense bytes of an array, without a copy where it is dense already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
