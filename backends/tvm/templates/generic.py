"""Any task that has a lowering: one loop nest per stage. The template that never says no.

Stages are what must be stored (`stages.py`): elements run vectorised and shared among threads, folds
in vector accumulators, hand-written loops as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import te, tirx
from tvm.te.tensor import Operation
from tvm.ir import Expr
from tvm.tirx import Buffer, PrimFunc

from optc.backends.tvm.templates.elements import (
    Elements,
    Key,
    Read,
    key_of,
    parameter,
    tensors_of,
)
from optc.backends.tvm.templates.folds import emit_fold
from optc.backends.tvm.templates.legal import legal
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.templates.nest import for_each_point, space_of
from optc.backends.tvm.templates.plan import Emitted, Knobs, Miss, Plan, Problem
from optc.backends.tvm.templates.stages import stages_of
from optc.ir.targets.target import Target


@dataclass(frozen=True, slots=True)
class NoKnobs:
    """Nothing to choose."""


@dataclass(frozen=True)
class Generic:
    """Template of everything."""

    name: str = "generic"
    version: int = 1

    def match(self, problem: Problem) -> Plan | Miss:
        """Takes what the lowering tables know."""
        return GenericPlan(problem)


@dataclass(frozen=True)
class GenericPlan:
    """Stage by stage."""

    problem: Problem
    template: str = "generic/1"

    def candidates(self) -> Sequence[Knobs]:
        """There is one way."""
        return [NoKnobs()]

    def emit(self, symbol: str, knobs: Knobs) -> Emitted:
        """One nest per stage."""
        return Emitted(_Emission(self.problem).run(symbol))


class _Emission:
    def __init__(self, problem: Problem) -> None:
        body = problem.body
        self.machine: Target = problem.target
        self.tensors = tensors_of(body)
        self.inputs = [parameter(v.type, f"in{i}") for i, v in enumerate(body.inputs)]
        self.outputs = [parameter(v.type, f"out{i}") for i, v in enumerate(body.outputs)]
        self.results = [self.tensors[value] for value in body.outputs]
        self.code = Code()
        self.buffers: dict[Key, Buffer] = {}
        self.sources: dict[Key, Read] = {}
        for value, buffer in zip(body.inputs, self.inputs, strict=True):
            self._place(self.tensors[value], buffer)
        for tensor, buffer in zip(self.results, self.outputs, strict=True):
            if not isinstance(tensor.op, te.PlaceholderOp):
                self.buffers.setdefault(key_of(tensor), buffer)

    def run(self, symbol: str) -> PrimFunc:
        for op in stages_of(self.results):
            self._stage(op)
        self._copies()
        return self.code.function(symbol, [*self.inputs, *self.outputs])

    def _stage(self, op: Operation) -> None:
        if isinstance(op, te.PlaceholderOp):
            return
        results = [op.output(n) for n in range(op.num_outputs)]
        targets = [self._buffer(tensor) for tensor in results]
        if isinstance(op, te.ExternOp):
            self._handwritten(op, targets)
        elif op.reduce_axis:
            emit_fold(self.code, op, targets, self.sources, self.machine)
        else:
            for tensor, target in zip(results, targets, strict=True):
                self._elements(tensor, target)
        for tensor, target in zip(results, targets, strict=True):
            self._place(tensor, target)

    def _elements(self, tensor: te.Tensor, target: Buffer) -> None:
        def point(code: Code, index: Sequence[Expr]) -> Expr:
            return Elements(self.sources, code).at(tensor, index)

        def write(index: list[Expr]) -> None:
            self.code.store(target, index, point(self.code, index))

        space = space_of([int(extent) for extent in tensor.shape], point)
        width = max(_bytes(tensor.dtype), space.width)
        for_each_point(self.code, space, self.machine, width, write)

    def _handwritten(self, op: te.ExternOp, targets: Sequence[Buffer]) -> None:
        inputs = [self.buffers[key_of(tensor)] for tensor in op.inputs]
        places = zip(
            (*op.input_placeholders, *op.output_placeholders), (*inputs, *targets), strict=True
        )
        for name, buffer in places:
            self.code.add(tirx.DeclBuffer(name, data=buffer.data))
        self.code.add(legal(op.body))

    def _buffer(self, tensor: te.Tensor) -> Buffer:
        key = key_of(tensor)
        if key not in self.buffers:
            shape = [int(extent) for extent in tensor.shape]
            self.buffers[key] = self.code.scratch(tensor.op.name, shape, tensor.dtype, "global")
        return self.buffers[key]

    def _place(self, tensor: te.Tensor, buffer: Buffer) -> None:
        self.buffers[key_of(tensor)] = buffer
        self.sources[key_of(tensor)] = lambda index: tirx.BufferLoad(buffer, list(index))

    def _copies(self) -> None:
        """Outputs that are inputs, or that are another output too."""
        for tensor, target in zip(self.results, self.outputs, strict=True):
            if self.buffers[key_of(tensor)] is not target:
                self._elements(tensor, target)


def _bytes(dtype: str) -> int:
    return -(-tvm.DataType(dtype).bits // 8)
