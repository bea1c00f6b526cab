"""Device functions to CUDA C.

TVM prints the statements; its preamble, which wants CUDA's own headers, is replaced by a short one
of ours, so that NVRTC needs nothing but the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr
from tvm.tirx import ForKind, PrimFunc, Stmt

from optc.backends.tvm.cuda.grid import DeviceKernel
from optc.backends.tvm.indices import simplify_indices
from optc.ir.targets.target import Target

_START = 'extern "C" __global__'
_KERNEL_LAUNCH = 2  # TVM's number for functions that run on a device
# LLVM's functions are C's by another name, but for these.
_FUNCTIONS = {"roundeven": "rint"}


def cuda_target(target: Target) -> tvm.target.Target:
    """The GPU as TVM's printer wants it."""
    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": target.cpu,
            "max_threads_per_block": 1024,
            "max_num_threads": 1024,
            "thread_warp_size": 32,
            "max_shared_memory_per_block": 48 * 1024,
            "registers_per_block": 65536,
        }
    )


def write_source(kernels: Sequence[DeviceKernel], target: Target) -> str:
    """CUDA C of the kernels, without the preamble: definitions that stand for themselves."""
    return "\n".join(_written(kernel.function, target) for kernel in kernels)


def _written(function: PrimFunc, target: Target) -> str:
    gpu = cuda_target(target)
    name = str(function.attrs["global_symbol"])
    module = tvm.IRModule({name: _lowerable(simplify_indices(function))})
    module = tirx.transform.BindTarget(gpu)(module)
    tir = tirx.transform
    config = {"tirx.UnrollLoop": {"explicit_unroll": False}}
    with tvm.transform.PassContext(opt_level=3, config=config):
        for lower in (
            tir.BF16ComputeLegalize(),
            tir.NarrowDataType(32),
            tir.VectorizeLoop(False),
            tir.UnrollLoop(),
            tir.RemoveNoOp(),
            tir.CommonSubexprElim(),
            tir.BF16StorageLegalize(),
            tir.LowerIntrin(),
        ):
            module = lower(module)
        module = tvm.IRModule({name: _printable(module[name])})
        built = tvm.get_global_func("target.build.cuda")(module, gpu)
    text: str = built.inspect_source()
    # The first occurrence declares, the second defines.
    definition = text[text.index(_START, text.index(_START) + 1) :]
    definition = re.sub(r"__shared__ alignas\(\d+\)", "__shared__ __align__(16)", definition)
    definition = definition.replace("alignas(64) ", "")  # arrays that are registers
    return re.sub(r"\n{2,}", "\n", definition).rstrip() + "\n"


def _lowerable(function: PrimFunc) -> PrimFunc:
    """Thread loops as TVM's printer knows them, pointers for parameters, CUDA's math functions."""
    handles = [tirx.Var(f"{buffer.name}_p", buffer.data.ty) for buffer in function.params]
    declared = [tirx.DeclBuffer(b, data=h) for b, h in zip(function.params, handles, strict=True)]
    body = tvm_ffi.structural_mutate(function.body, [(tirx.For, _loop), (Call, _call)])
    attrs = {
        "global_symbol": function.attrs["global_symbol"],
        "tirx.noalias": True,
        "calling_conv": _KERNEL_LAUNCH,
        "tirx.kernel_launch_params": ["blockIdx.x", "threadIdx.x"],
    }
    result = PrimFunc(handles, tirx.SeqStmt([*declared, body]))
    for key, value in attrs.items():
        result = result.with_attr(key, value)
    return result


def _loop(item: tirx.For, mutator: tvm_ffi.StructuralMutator) -> Stmt:
    if item.kind == ForKind.THREAD_BINDING:
        tag = item.thread_binding.thread_tag
        axis = tirx.IterVar(None, item.loop_var, 1, tag)
        return tirx.AttrStmt(axis, "thread_extent", item.extent, mutator.mutate(item.body))
    serial = item.kind in (ForKind.PARALLEL, ForKind.VECTORIZED)
    kind = ForKind.SERIAL if serial else item.kind
    return tirx.For(item.loop_var, item.min, item.extent, kind, mutator.mutate(item.body))


def _call(item: Call, mutator: tvm_ffi.StructuralMutator) -> Expr:
    if item.op.name not in ("tirx.call_llvm_pure_intrin", "tirx.call_llvm_intrin"):
        return mutator.default_mutate(item)
    number, *arguments = item.args
    name = str(tvm.target.codegen.llvm_get_intrinsic_name(int(number)))
    function = name.split(".")[1]
    function = _FUNCTIONS.get(function, function)
    suffix = "" if item.ty.dtype == "float64" else "f"
    values = [mutator.mutate(argument) for argument in arguments]
    return tirx.call_pure_extern(item.ty.dtype, f"{function}{suffix}", *values)


# TVM prints a reinterpretation as the address of its operand, which a value does not have.
_BITS = {
    ("float32", "int32"): "__float_as_int",
    ("float32", "uint32"): "__float_as_uint",
    ("int32", "float32"): "__int_as_float",
    ("uint32", "float32"): "__uint_as_float",
    ("float64", "int64"): "__double_as_longlong",
    ("int64", "float64"): "__longlong_as_double",
}


def _printable(function: PrimFunc) -> PrimFunc:
    """The function with reinterpretations by name."""

    def call(item: Call, mutator: tvm_ffi.StructuralMutator) -> Expr:
        if item.op.name != "tirx.reinterpret":
            return mutator.default_mutate(item)
        value = mutator.mutate(item.args[0])
        name = _BITS.get((str(value.ty.dtype), str(item.ty.dtype)))
        return tirx.call_pure_extern(item.ty.dtype, name, value) if name else item

    body = tvm_ffi.structural_mutate(function.body, (Call, call))
    return PrimFunc(function.params, body, function.ret_type, function.attrs)
