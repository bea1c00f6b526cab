"""Candidates of one task as one small program: the first input says which of them runs.

All read the same inputs and write the same outputs. A candidate that is fast because it is wrong
is found out by what it computes, one that crashes by being the one that ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.backends.kernel import Job, Kernel, PackLike
from optc.backends.program import (
    Call,
    Operand,
    Port,
    Program,
    RunSegment,
    Segment,
    Space,
    Switch,
    Weight,
    align,
)
from optc.ir.dtype import DType
from optc.ir.targets.target import Target
from optc.ir.types import TensorType


@dataclass(frozen=True)
class Trial:
    """A program of candidates; with `i` as its first input it runs the i-th kernel.

    `inputs` are the arrays of the other inputs, in the dtypes' storage.
    """

    program: Program
    inputs: tuple[NDArray[Any], ...]

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What each candidate computes."""
        return self.program.outputs


def trial_of(job: Job, kernels: Sequence[Kernel], target: Target, seed: int = 0) -> Trial:
    """A program of the kernels, with numbers of `seed` for inputs and weights."""
    body, constants = job.body, job.constants
    arrays = [numbers(value.type, seed + i) for i, value in enumerate(body.inputs)]
    ports = [i for i in range(len(arrays)) if i not in constants]
    weights = _Weights()
    segments = []
    for number, kernel in enumerate(kernels):
        operands: list[Operand] = []
        for i, value in enumerate(body.inputs):
            if i in constants:
                pack = kernel.packs.get(i)
                operands.append(weights.operand(i, value.type, arrays[i], pack))
            else:
                operands.append(Operand(Space.INPUT, 1 + ports.index(i)))
        operands += [Operand(Space.OUTPUT, place) for place in range(len(body.outputs))]
        start = 0
        for nbytes in kernel.workspaces:
            operands.append(Operand(Space.ARENA, start))
            start += align(nbytes)
        call = Call(kernel.symbol, tuple(operands), f"candidate {number}")
        segments.append(Segment(f"candidate {number}", (call,)))
    cases = tuple((RunSegment(segment.name),) for segment in segments)
    which = Port("which", (), DType.I32)
    inputs = (Port(f"x{i}", body.inputs[i].shape, body.inputs[i].type.dtype) for i in ports)
    results = (Port(f"y{i}", v.shape, v.type.dtype) for i, v in enumerate(body.outputs))
    program = Program(
        name="trial",
        inputs=(which, *inputs),
        outputs=tuple(results),
        segments=tuple(segments),
        flow=(Switch(Operand(Space.INPUT, 0), cases),),
        objects=tuple({kernel.symbol: kernel.object for kernel in kernels}.values()),
        triple=target.triple,
        cpu=target.cpu,
        features=target.features,
        arena_bytes=max((sum(map(align, kernel.workspaces)) for kernel in kernels), default=0),
        weights=tuple(weights.blocks),
    )
    return Trial(program, tuple(arrays[i] for i in ports))


class _Weights:
    """Packed weights, each layout once."""

    def __init__(self) -> None:
        self.blocks: list[Weight] = []
        self._places: dict[str, int] = {}
        self._end = 0

    def operand(
        self, place: int, type: TensorType, array: NDArray[Any], pack: PackLike | None
    ) -> Operand:
        """Where the input lies once `pack` has laid it out."""
        key = f"{place} {pack!r}"
        if key not in self._places:
            data = np.ascontiguousarray(pack(array) if pack else array)
            self._places[key] = self._end
            self.blocks.append(Weight.of(self._end, data))
            self._end += align(data.nbytes)
        return Operand(Space.WEIGHTS, self._places[key])


def numbers(type: TensorType, seed: int) -> NDArray[Any]:
    """Normal floats; whole numbers that are good indices: 0 and 1."""
    source, dtype = np.random.default_rng(seed), type.dtype
    if dtype is DType.BF16:
        bits = source.standard_normal(type.shape).astype(np.float32).view(np.uint32)
        return (bits >> 16).astype(np.uint16)
    if dtype.is_float:
        return source.standard_normal(type.shape).astype(dtype.storage)
    return source.integers(0, 2, type.shape).astype(dtype.storage)
