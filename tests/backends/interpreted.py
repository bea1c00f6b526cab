"""Runs a program call by call, the reference in its kernels' place.

The interpreter knows addresses and bytes only, so a value that lies in the wrong place, or is
overwritten while it is needed, shows in the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optc.backends.assemble import assemble
from optc.backends.kernel import Job
from optc.backends.program import Call, Copy, ExitIf, Operand, Program, RunSegment, Space, Step
from optc.backends.reference.evaluate import run_graph
from optc.ir.graph import Graph
from optc.ir.module import Module
from optc.ir.targets.find import find_target

TARGET = find_target("x86-64-v3")


@dataclass(frozen=True)
class Stand:
    """A kernel that is only a name for its body; it asks for some scratch memory."""

    symbol: str
    body: Graph
    object: bytes = b""
    source: str = ""
    packs: dict[int, Any] = field(default_factory=dict)
    launches: tuple[Any, ...] = ()
    workspaces: tuple[int, ...] = (40, 7)
    flops: int | None = None
    template: str = "stand"


class Interpreted:
    """The module's program and the memory it runs in; states keep what calls write."""

    def __init__(self, module: Module) -> None:
        self._bodies: dict[str, Stand] = {}
        self.program: Program = assemble(module, self._build, TARGET)
        self.spaces = {
            Space.ARENA: np.full(self.program.arena_bytes, 0xFF, np.uint8),
            Space.WEIGHTS: np.zeros(self.program.weights_bytes, np.uint8),
            Space.STATE: np.zeros(self.program.state_bytes, np.uint8),
        }
        self._segments = {segment.name: segment for segment in self.program.segments}
        weights = self.spaces[Space.WEIGHTS]
        for block in self.program.weights:
            data = np.ascontiguousarray(block.load()).reshape(-1).view(np.uint8)
            weights[block.offset : block.offset + block.nbytes] = data
        for slot in self.program.states:
            if slot.initial is not None:
                self.state(slot.name)[:] = weights[slot.initial : slot.initial + slot.nbytes]

    def _build(self, jobs: Sequence[Job]) -> list[Stand]:
        for number, job in enumerate(jobs):
            self._bodies[f"k{number}"] = Stand(f"k{number}", job.body)
        return [self._bodies[f"k{number}"] for number in range(len(jobs))]

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of one call; the arena and the outputs are filled with 0xFF before it."""
        self._inputs = [x.contiguous().numpy().reshape(-1).view(np.uint8).copy() for x in inputs]
        self._outputs = [np.full(port.nbytes, 0xFF, np.uint8) for port in self.program.outputs]
        self.spaces[Space.ARENA][:] = 0xFF
        self._follow(self.program.flow)
        return [
            torch.from_numpy(data.view(port.dtype.storage).reshape(port.shape))
            for data, port in zip(self._outputs, self.program.outputs, strict=True)
        ]

    def state(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a state."""
        slot = next(slot for slot in self.program.states if slot.name == name)
        return self.spaces[Space.STATE][slot.offset : slot.offset + slot.nbytes]

    def bytes(self, at: Operand, nbytes: int) -> NDArray[np.uint8]:
        """The bytes an operand points to."""
        if at.space is Space.INPUT:
            return self._inputs[at.offset][at.start : at.start + nbytes]
        if at.space is Space.OUTPUT:
            return self._outputs[at.offset][at.start : at.start + nbytes]
        start = at.offset + at.start
        assert start + nbytes <= len(self.spaces[at.space])
        return self.spaces[at.space][start : start + nbytes]

    def _follow(self, flow: Sequence[Step]) -> bool:
        """Run the steps; True when one of them ended the call."""
        for step in flow:
            match step:
                case RunSegment(name):
                    for call in self._segments[name].calls:
                        self._run(call)
                case ExitIf(flag, steps) if self.bytes(flag, 1)[0]:
                    self._follow(steps)
                    return True
        return False

    def _run(self, call: Call | Copy) -> None:
        if isinstance(call, Copy):
            self.bytes(call.target, call.nbytes)[:] = self.bytes(call.source, call.nbytes).copy()
            return
        kernel = self._bodies[call.symbol]
        body, count = kernel.body, len(kernel.body.inputs)
        places = [
            self.bytes(at, value.type.nbytes)
            for at, value in zip(call.operands, (*body.inputs, *body.outputs), strict=False)
        ]
        inputs = [
            torch.from_numpy(place.copy().view(value.type.dtype.storage).reshape(value.shape))
            for place, value in zip(places, body.inputs, strict=False)
        ]
        for at, nbytes in zip(call.operands[len(places) :], kernel.workspaces, strict=True):
            self.bytes(at, nbytes)[:] = 0xFF
        for place in places[count:]:
            place[:] = 0xFF
        for place, result in zip(places[count:], run_graph(body, inputs), strict=True):
            place[:] = result.contiguous().numpy().reshape(-1).view(np.uint8)
