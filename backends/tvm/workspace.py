"""Moves scratch memory that is too large for a stack into one workspace parameter.

Kernels run on threads whose stacks we do not always choose (musl gives 128 KiB), so a function's
arrays stay on the stack only while they are small together. The memory planner places the workspace
among the activations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer, ForKind, PrimFunc, Stmt, Var

from optc.backends.tvm.dtypes import nbytes_of

STACK_BYTES = 24 * 1024
ALIGNMENT = 64


@dataclass
class _Layout:
    """Places moved buffers one after another; `loops` are the open parallel loops."""

    base: Var
    bytes: int = 0
    loops: list[tirx.For] = field(default_factory=list)

    def place(self, buffer: Buffer) -> Expr:
        """Address of the buffer: each iteration of the open parallel loops has its own."""
        stride = -(-nbytes_of(buffer) // ALIGNMENT) * ALIGNMENT
        offset: Expr = tirx.const(self.bytes, "int64")
        for loop in reversed(self.loops):
            offset = offset + tirx.Cast("int64", loop.loop_var - loop.min) * stride
            stride *= int(loop.extent)
        self.bytes += stride
        return tirx.op.handle_add_byte_offset(self.base, offset)


def to_workspace(function: PrimFunc) -> tuple[PrimFunc, int]:
    """Turn buffer parameters into pointers, and move large scratch arrays behind a last pointer.

    Answers with the function and the bytes of workspace it wants, 0 for none. Inside a parallel
    loop every iteration gets its own copy, so templates keep such loops short.
    """
    handles = [Var(f"{buffer.name}_p", buffer.data.ty) for buffer in function.params]
    layout = _Layout(Var("workspace", tirx.decl_buffer((1,), "uint8").data.ty))
    moved = _too_large(function.body)
    body = _moved(function.body, moved, layout) if moved else function.body
    declared = [tirx.DeclBuffer(b, data=h) for b, h in zip(function.params, handles, strict=True)]
    body = tirx.SeqStmt([*declared, body, tirx.stmt.Return(tirx.const(0, "int32"))])
    parameters = [*handles, layout.base] if moved else handles
    plain = PrimFunc(parameters, body, tvm.ir.PrimType("int32"), function.attrs)
    return plain, layout.bytes


def _moved(body: Stmt, moved: set[Buffer], layout: _Layout) -> Stmt:
    def loop(item: tirx.For, mutator: tvm_ffi.StructuralMutator) -> Stmt:
        if item.kind != ForKind.PARALLEL:
            return mutator.default_mutate(item)
        layout.loops.append(item)
        result = mutator.default_mutate(item)
        layout.loops.pop()
        return result

    def scratch(item: tirx.AllocBuffer, _: tvm_ffi.StructuralMutator) -> Stmt:
        if item.buffer not in moved:
            return item
        return tirx.DeclBuffer(item.buffer, data=layout.place(item.buffer))

    return tvm_ffi.structural_mutate(body, [(tirx.For, loop), (tirx.AllocBuffer, scratch)])


def _too_large(body: Stmt) -> set[Buffer]:
    """The largest arrays, so many that the others fit on a stack together."""
    found: list[Buffer] = []
    tvm_ffi.structural_walk(body, (tirx.AllocBuffer, lambda item: found.append(item.buffer)))
    moved: set[Buffer] = set()
    total = 0
    for buffer in sorted(found, key=nbytes_of):
        total += nbytes_of(buffer)
        if total > STACK_BYTES:
            moved.add(buffer)
    return moved
