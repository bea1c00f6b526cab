"""Vectors of ARM's scalable extension (SVE) at a length that the target names, `sve=256` for one.

LLVM turns vectors of that width into scalable registers under a predicate, so that kernels run
where registers are as long or longer. Only floats of 32 bits and more, and integers, are written
so: dot products and matrix instructions of bytes and halves are NEON's, of 128 bits, in every
width.
"""

from __future__ import annotations

from dataclasses import replace

from optc.backends.tvm.templates.plan import Problem
from optc.ir.dtype import DType
from optc.ir.targets.target import Arch

_NEON = 128
_NARROW = frozenset((DType.I8, DType.U8, DType.I4, DType.F16, DType.BF16))


def at_its_width(problem: Problem) -> Problem:
    """The problem, for vectors of 128 bits where its elements are those of NEON's instructions."""
    target, body = problem.target, problem.body
    if target.arch is not Arch.AARCH64 or target.vector_bits == _NEON:
        return problem
    values = (*body.inputs, *(value for node in body.nodes for value in node.outputs))
    if not any(value.type.dtype in _NARROW for value in values):
        return problem
    return replace(problem, target=replace(target, vector_bits=_NEON))
