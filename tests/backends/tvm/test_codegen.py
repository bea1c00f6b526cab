"""Objects with a plain C interface: the same bytes each time, no unknown symbols, every target."""

from __future__ import annotations

import pytest
from tvm import tirx
from tvm.tirx import PrimFunc

from optc.backends.kernel import Job
from optc.backends.tvm.codegen import PARALLEL_LAUNCH, CodegenError, compile_functions
from optc.backends.tvm.elf import undefined_symbols
from optc.backends.tvm.kernel import KernelBuilder, build
from optc.backends.tvm.templates.loops import Code
from optc.backends.tvm.workspace import STACK_BYTES
from optc.ir.builder import Builder
from optc.ir.dtype import DType
from optc.ir.graph import Graph
from optc.ir.ops import Linear, Softmax, ew
from optc.ir.targets.catalogue import TARGETS
from optc.ir.targets.find import find_target
from optc.ir.targets.target import Arch
from optc.ir.types import TensorType

CPUS = sorted(name for name, row in TARGETS.items() if row.arch is not Arch.CUDA)


def linear_gelu(m: int = 40, n: int = 50, k: int = 60) -> Graph:
    """A body that every machine should compile well."""
    builder = Builder("linear_gelu")
    types = (TensorType((m, k), DType.F32), TensorType((n, k), DType.F32))
    x, weight = (builder.input(type) for type in types)
    return builder.build([builder.emit(ew.Gelu(), builder.emit(Linear(), x, weight))])


def copy_through(scratch: int) -> PrimFunc:
    """out = in, by way of `scratch` floats."""
    source, target = (tirx.decl_buffer((scratch,), "float32", name) for name in ("a", "b"))
    code = Code()
    between = code.scratch("between", (scratch,), "float32")
    with code.loop("i", scratch) as i:
        code.store(between, (i,), source[i])
    with code.loop("i", scratch) as i:
        code.store(target, (i,), between[scratch - 1 - i])
    return code.function("copy_through", [source, target])


@pytest.mark.parametrize("name", CPUS)
def test_every_cpu_gets_an_object_that_needs_nothing_of_tvm(name: str) -> None:
    kernel = build(Job(linear_gelu(), frozenset({1})), find_target(name))
    needed = {s for s in undefined_symbols(kernel.object) if not s.startswith("__aeabi")}
    assert needed <= {PARALLEL_LAUNCH, "memset", "memcpy"}


def test_the_same_bytes_each_time() -> None:
    job = Job(linear_gelu(), frozenset({1}))
    first, second = (build(job, find_target("x86-64-v3")) for _ in range(2))
    assert first == second


def test_symbols_tell_kernels_apart() -> None:
    target = find_target("x86-64-v3")
    symbols = {
        build(Job(linear_gelu(), frozenset({1})), target).symbol,
        build(Job(linear_gelu(), frozenset()), target).symbol,
        build(Job(linear_gelu(m=41), frozenset({1})), target).symbol,
        build(Job(linear_gelu(), frozenset({1})), find_target("x86-64-v2")).symbol,
    }
    assert len(symbols) == 4
    assert all(symbol.isidentifier() for symbol in symbols)


def test_large_scratch_becomes_a_workspace() -> None:
    target = find_target("x86-64-v3")
    fits, large = STACK_BYTES // 4, STACK_BYTES // 4 + 1
    assert compile_functions([copy_through(fits)], target).workspace == {"copy_through": 0}
    assert compile_functions([copy_through(large)], target).workspace["copy_through"] >= 4 * large


def test_a_foreign_symbol_is_an_error_that_names_it() -> None:
    buffer = tirx.decl_buffer((1,), "float32", "a")
    code = Code()
    code.store(buffer, (0,), tirx.call_pure_extern("float32", "nobody_has_this", buffer[0]))
    with pytest.raises(CodegenError, match=r"lonely needs nobody_has_this"):
        compile_functions([code.function("lonely", [buffer])], find_target("x86-64-v3"))


def test_undefined_symbols_wants_an_object() -> None:
    with pytest.raises(ValueError, match="ELF"):
        undefined_symbols(b"MZ not an object" * 9)


def test_the_builder_keeps_the_order_and_counts() -> None:
    builder = Builder("softmax")
    x = builder.input(TensorType((4, 9), DType.F32))
    softmax = builder.build([builder.emit(Softmax(axis=1), x)])
    jobs = [Job(linear_gelu(), frozenset({1})), Job(softmax, frozenset())]
    done: list[int] = []
    kernels = KernelBuilder(find_target("x86-64-v3")).build(jobs, done.append)
    assert [kernel.symbol.split("_")[1] for kernel in kernels] == ["linear", "softmax"]
    assert done == [1, 2]
