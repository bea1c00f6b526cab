"""Tensors computed by hand-written loops, for what no expression per element can say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from optc.backends.tvm.dtypes import tvm_dtype
from optc.backends.tvm.lower.element import i32
from optc.ir.types import TensorType

if TYPE_CHECKING:
    from optc.backends.tvm.templates.loops import Code

    Body = Callable[[Code, Sequence[Buffer], Sequence[Buffer]], None]

LANES = 16  # of a vector loop: LLVM splits it where registers are shorter


def loop_nest(
    name: str, inputs: Sequence[te.Tensor], types: Sequence[TensorType], body: Body
) -> list[te.Tensor]:
    """Tensors of `types` that `body(code, inputs, outputs)` writes."""
    # Late: some templates are written with lowerings, and their package holds the loops.
    from optc.backends.tvm.templates.loops import Code

    outputs = [
        tirx.decl_buffer(type.shape, tvm_dtype(type.dtype), f"{name}_{i}" if i else name)
        for i, type in enumerate(types)
    ]
    # TVM's own declaration has an offset that nobody binds under a plain C interface.
    buffers = [tirx.decl_buffer(t.shape, t.dtype, f"{name}_in{i}") for i, t in enumerate(inputs)]

    def statement(ins: Sequence[Buffer], outs: Sequence[Buffer]) -> tirx.Stmt:
        code = Code()
        body(code, ins, outs)
        return code.statement()

    result = te.extern(
        [type.shape for type in types],
        list(inputs),
        statement,
        name=name,
        dtype=[tvm_dtype(type.dtype) for type in types],
        in_buffers=buffers,
        out_buffers=outputs,
    )
    return list(result) if isinstance(result, (list, tuple)) or len(types) > 1 else [result]


def each_lane(code: Code, name: str, extent: int, element: Callable[[Expr], None]) -> None:
    """`element(i)` for 0 <= i < extent: whole vectors first, then one by one."""
    blocks, tail = divmod(extent, LANES)
    if blocks:
        with code.loop(f"{name}_block", blocks) as block, code.vector(name, LANES) as lane:
            element(block * i32(LANES) + lane)
    if tail:
        with code.loop(f"{name}_tail", tail) as lane:
            element(i32(blocks * LANES) + lane)
