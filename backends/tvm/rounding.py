"""Rounding to the nearest integer and converting it, as the one instruction that does both.

LLVM keeps the two apart: the conversion of a float that no i32 holds has no meaning to it, so it
must not guess that none occurs. TVM's conversion says so already.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr
from tvm.tirx import PrimFunc

from optc.ir.targets.target import Arch, Target

_CALL, _ROUND, _BOTH = "tirx.call_llvm_pure_intrin", "llvm.nearbyint", "llvm.lrint"


def rounded_at_once(function: PrimFunc, target: Target) -> PrimFunc:
    """The function, vectorised before, with `vcvtps2dq` in place of two instructions."""
    if target.arch is not Arch.X86_64:
        return function
    nearest = int(tvm.target.codegen.llvm_lookup_intrinsic_id(_ROUND))

    def cast(item: tirx.Cast, mutator: tvm_ffi.StructuralMutator) -> Expr:
        value = item.value
        if not (isinstance(value, Call) and value.op.name == _CALL):
            return mutator.default_mutate(item)
        kinds = str(item.ty).partition("x")[0], str(value.ty).partition("x")[0]
        if int(value.args[0]) != nearest or kinds != ("int32", "float32"):
            return mutator.default_mutate(item)
        return tirx.call_llvm_pure_intrin(str(item.ty), _BOTH, mutator.mutate(value.args[1]))

    return function.with_body(tvm_ffi.structural_mutate(function.body, (tirx.Cast, cast)))
