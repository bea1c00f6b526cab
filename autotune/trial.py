"""Candidates of one task as one small program: each is a call, all read the same inputs.

What comes back is the time of every call in every round, and what each computed, so that a
candidate that is fast because it is wrong is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optc.autotune.task import TuningTask
from optc.backends.kernel import Kernel, PackLike
from optc.backends.program import (
    Call,
    Operand,
    Port,
    Program,
    RunSegment,
    Segment,
    Space,
    Weight,
    align,
)
from optc.ir.dtype import DType
from optc.ir.targets.target import Target
from optc.ir.types import TensorType


@dataclass(frozen=True)
class Trial:
    """A program of candidates; call number i is that of the i-th kernel."""

    program: Program
    inputs: tuple[NDArray[Any], ...]
    outputs_each: int


def trial_of(task: TuningTask, kernels: Sequence[Kernel], target: Target, seed: int = 0) -> Trial:
    """A program that calls every kernel once, with numbers of `seed` for inputs and weights."""
    body, constants = task.job.body, task.job.constants
    arrays = [numbers(v.type, seed + i) for i, v in enumerate(body.inputs)]
    ports = [i for i in range(len(arrays)) if i not in constants]
    weights = _Weights()
    calls: list[Call] = []
    outputs: list[Port] = []
    scratch = max((sum(map(align, kernel.workspaces)) for kernel in kernels), default=0)
    for number, kernel in enumerate(kernels):
        operands: list[Operand] = []
        for i, value in enumerate(body.inputs):
            if i in constants:
                pack = kernel.packs.get(i)
                operands.append(weights.operand(i, value.type, arrays[i], pack))
            else:
                operands.append(Operand(Space.INPUT, ports.index(i)))
        for place, value in enumerate(body.outputs):
            operands.append(Operand(Space.OUTPUT, len(outputs)))
            name = f"candidate{number}_{place}"
            outputs.append(Port(name, value.shape, value.type.dtype))
        start = 0
        for nbytes in kernel.workspaces:
            operands.append(Operand(Space.ARENA, start))
            start += align(nbytes)
        calls.append(Call(kernel.symbol, tuple(operands), f"candidate {number}"))
    program = Program(
        name="trial",
        inputs=tuple(Port(f"x{i}", body.inputs[i].shape, body.inputs[i].type.dtype) for i in ports),
        outputs=tuple(outputs),
        segments=(Segment("candidates", tuple(calls)),),
        flow=(RunSegment("candidates"),),
        objects=tuple({kernel.symbol: kernel.object for kernel in kernels}.values()),
        triple=target.triple,
        cpu=target.cpu,
        features=target.features,
        arena_bytes=scratch,
        weights=tuple(weights.blocks),
    )
    return Trial(program, tuple(arrays[i] for i in ports), len(body.outputs))


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
