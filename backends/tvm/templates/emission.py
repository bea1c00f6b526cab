"""Emits a task's stages, whole or for one row: what the generic template and `rows` share."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx
from tvm.ir import Expr
from tvm.te.tensor import Operation
from tvm.tirx import Buffer, PrimFunc

from optc.backends.tvm.dtypes import width_of
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
from optc.backends.tvm.templates.plan import Problem
from optc.backends.tvm.templates.stages import stages_of
from optc.ir.targets.target import Target


class StageEmission:
    """The function of a task under construction; `sources` grows with every stage."""

    def __init__(self, problem: Problem) -> None:
        body = problem.body
        self.machine: Target = problem.target
        tensors = tensors_of(body)
        self.inputs = [parameter(v.type, f"in{i}") for i, v in enumerate(body.inputs)]
        self.outputs = [parameter(v.type, f"out{i}") for i, v in enumerate(body.outputs)]
        self.results = [tensors[value] for value in body.outputs]
        self.stages = stages_of(self.results)
        self.code = Code()
        self.buffers: dict[Key, Buffer] = {}
        self.sources: dict[Key, Read] = {}
        for value, buffer in zip(body.inputs, self.inputs, strict=True):
            self.place(tensors[value], buffer)
        self._outputs: dict[Key, Buffer] = {}
        for tensor, buffer in zip(self.results, self.outputs, strict=True):
            if not isinstance(tensor.op, te.PlaceholderOp):
                self._outputs.setdefault(key_of(tensor), buffer)

    def target_of(self, tensor: te.Tensor, rank: int = 0) -> Buffer:
        """The output a tensor is stored in, or scratch memory without its `rank` first axes."""
        if key_of(tensor) in self._outputs:
            return self._outputs[key_of(tensor)]
        shape = [int(extent) for extent in tensor.shape[rank:]]
        scope = "local" if rank else "global"
        return self.code.scratch(tensor.op.name, shape, tensor.dtype, scope)

    def place(self, tensor: te.Tensor, buffer: Buffer) -> None:
        """From here on the tensor is read from a buffer of its shape."""
        self.buffers[key_of(tensor)] = buffer
        self.sources[key_of(tensor)] = lambda index: tirx.BufferLoad(buffer, list(index))

    def whole(self, op: Operation) -> None:
        """All elements of a stage."""
        if isinstance(op, te.PlaceholderOp):
            return
        results = [op.output(n) for n in range(op.num_outputs)]
        targets = [self.target_of(tensor) for tensor in results]
        if isinstance(op, te.ExternOp):
            self._handwritten(op, targets)
        else:
            self.compute(op, targets, (), self.machine)
        for tensor, target in zip(results, targets, strict=True):
            self.place(tensor, target)

    def compute(
        self,
        op: te.ComputeOp,
        targets: Sequence[Buffer],
        prefix: Sequence[Expr],
        machine: Target,
    ) -> None:
        """A stage whose leading axes stand at `prefix`, into buffers with or without those axes."""
        leads = [list(prefix)[len(op.axis) - len(target.shape) :] for target in targets]

        def write(index: Sequence[Expr], values: Sequence[Expr]) -> None:
            for target, lead, value in zip(targets, leads, values, strict=True):
                self.code.store(target, [*lead, *index], value)

        if op.reduce_axis:
            emit_fold(self.code, op, prefix, write, self.sources, machine)
            return
        for number, (target, lead) in enumerate(zip(targets, leads, strict=True)):
            self.elements(op.output(number), target, prefix, lead, machine)

    def elements(
        self,
        tensor: te.Tensor,
        target: Buffer,
        prefix: Sequence[Expr],
        lead: Sequence[Expr],
        machine: Target,
    ) -> None:
        """Elements below `prefix`, written below `lead`."""

        def point(code: Code, index: Sequence[Expr]) -> Expr:
            return Elements(self.sources, code).at(tensor, [*prefix, *index])

        def write(index: list[Expr]) -> None:
            self.code.store(target, [*lead, *index], point(self.code, index))

        space = space_of([int(extent) for extent in tensor.shape[len(prefix) :]], point)
        width = max(width_of(tensor.dtype), space.width)
        for_each_point(self.code, space, machine, width, write)

    def finish(self, symbol: str) -> PrimFunc:
        """Copy outputs that are inputs or other outputs, and close the function."""
        for tensor, target in zip(self.results, self.outputs, strict=True):
            if self.buffers[key_of(tensor)] is not target:
                self.elements(tensor, target, (), (), self.machine)
        return self.code.function(symbol, [*self.inputs, *self.outputs])

    def _handwritten(self, op: te.ExternOp, targets: Sequence[Buffer]) -> None:
        inputs = [self.buffers[key_of(tensor)] for tensor in op.inputs]
        places = zip(
            (*op.input_placeholders, *op.output_placeholders), (*inputs, *targets), strict=True
        )
        for name, buffer in places:
            self.code.add(tirx.DeclBuffer(name, data=buffer.data))
        self.code.add(legal(op.body))
