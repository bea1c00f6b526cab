"""TIR functions to object code with a plain C interface.

TVM's own pipeline ends in its packed calling convention, whose glue would have to travel with every
artifact. This one stops before it: a function of buffers becomes

    int32_t symbol(void* a0, void* a1, ... [, void* workspace]);      // 0: done

and needs nothing but `__TVMBackendParallelLaunch`, a pointer to the function that runs parallel
loops, which the runtime defines. LLVM runs without the interpreter lock: call from several threads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.tirx import PrimFunc

from optc.backends.tvm.elf import undefined_symbols
from optc.backends.tvm.indices import simplify_indices
from optc.backends.tvm.operands import typed_operands
from optc.backends.tvm.rounding import rounded_at_once
from optc.backends.tvm.target_info import llvm_target
from optc.backends.tvm.workspace import to_workspace
from optc.ir.targets.target import Target

PARALLEL_LAUNCH = "__TVMBackendParallelLaunch"
_MATH = (
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "copysign", "cos", "cosh",
    "erf", "exp", "exp2", "expm1", "floor", "fma", "fmax", "fmin", "fmod", "hypot", "ldexp", "log",
    "log10", "log1p", "log2", "nearbyint", "nextafter", "pow", "rint", "round", "roundeven", "sin",
    "sinh", "sqrt", "tan", "tanh", "trunc",
)  # fmt: skip
# What C's libraries give on every target: libm is linked, the others come with the compiler.
_LIBRARY = frozenset(name + suffix for name in _MATH for suffix in ("", "f")) | {
    "memcpy",
    "memmove",
    "memset",
    "bzero",
}


class CodegenError(Exception):
    """A kernel could not be compiled, or needs a symbol that no artifact provides."""


@dataclass(frozen=True, slots=True)
class ObjectCode:
    """A relocatable object, and the bytes of workspace each function wants, 0 for none."""

    data: bytes
    workspace: dict[str, int]


def _block_passes() -> list[tvm.transform.Pass]:
    """For functions made by `s_tir.Schedule`: their blocks become plain loops."""
    schedule = s_tir.transform
    return [
        schedule.CanonicalizeLoop(),
        schedule.LowerInitBlock(),
        schedule.PlanAndUpdateBufferAllocationLocation(),
        schedule.ConvertBlocksToOpaque(),
        schedule.CompactBufferAllocation(),
        schedule.LowerMatchBuffer(),
        schedule.StmtSimplify(),
        schedule.AnnotateIrregularLoop(),
        schedule.InjectSoftwarePipeline(),
        schedule.LowerOpaqueBlock(),
    ]


def _loop_passes() -> list[tvm.transform.Pass]:
    tir, schedule = tirx.transform, s_tir.transform
    return [
        tir.BF16ComputeLegalize(),
        tir.NarrowDataType(32),
        tir.VectorizeLoop(True),
        tir.StorageRewrite(),
        tir.UnrollLoop(),
        tir.RemoveNoOp(),
        schedule.RewriteUnsafeSelect(),
        tir.CommonSubexprElim(),
        tir.VerifyMemory(),
    ]


def _storage_passes() -> list[tvm.transform.Pass]:
    return [tirx.transform.BF16StorageLegalize(), tirx.transform.LowerIntrin()]


def compile_functions(functions: Sequence[PrimFunc], target: Target) -> ObjectCode:
    """Object code of the functions, named by their `global_symbol`; the same bytes each time.

    Raises CodegenError with the symbol at fault.
    """
    llvm = llvm_target(target)
    loops = [_without_blocks(function) for function in functions]
    module = tvm.IRModule({_symbol(f): f for f in map(simplify_indices, loops)})
    module = tirx.transform.BindTarget(llvm)(module)
    with tvm.transform.PassContext(opt_level=3):
        for lower in _loop_passes():
            module = lower(module)
        plain = {name: to_workspace(f) for name, f in module.functions.items()}
        module = tvm.IRModule({name: function for name, (function, _) in plain.items()})
        for lower in _storage_passes():
            module = lower(module)
        finished = {name: _finished(f, target) for name, f in module.functions.items()}
        module = tvm.IRModule(finished)
        built = tvm.get_global_func("target.build.llvm")(module, llvm)
    workspace = {name.name_hint: size for name, (_, size) in plain.items()}
    return ObjectCode(_checked(_object_bytes(built), functions), workspace)


def _finished(function: PrimFunc, target: Target) -> PrimFunc:
    """With what LLVM cannot know for itself."""
    return typed_operands(rounded_at_once(function, target))


def _without_blocks(function: PrimFunc) -> PrimFunc:
    """The function as plain loops; block passes take long, and most functions have no blocks."""
    block = (s_tir.SBlock, lambda _: tvm_ffi.VisitInterrupt(True))
    if tvm_ffi.structural_walk(function.body, block) is None:
        return function
    module = tvm.IRModule({_symbol(function): function})
    for lower in _block_passes():
        module = lower(module)
    return module[_symbol(function)]


def _symbol(function: PrimFunc) -> str:
    return str(function.attrs["global_symbol"])


def _object_bytes(built: tvm.runtime.Module) -> bytes:
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        path = Path(folder, "kernel.o")
        built.write_to_file(str(path), "o")
        return path.read_bytes()


def _checked(data: bytes, functions: Sequence[PrimFunc]) -> bytes:
    # Compilers' helpers (division on 32-bit ARM, half floats) come from the C toolchain's runtime.
    needed = undefined_symbols(data) - _LIBRARY
    unknown = {name for name in needed if not name.startswith("__")}
    if unknown:
        names = ", ".join(map(_symbol, functions))
        raise CodegenError(
            f"{names} needs {', '.join(sorted(unknown))}, which no artifact provides"
        )
    return data
